package terminal

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/bytesize"
)

// lineInterval is the time between two log lines about the same disk.
const lineInterval = 30 * time.Second

// Progress shows the progress of the disks of several domains: as bars on a terminal, as
// occasional lines in a log, or not at all. Log lines are written through it, so that they
// appear above the bars.
type Progress struct {
	out  io.Writer
	draw bool // bars instead of lines
	mute bool
	done string // what was done with the bytes, such as "copied"

	mu   sync.Mutex    // protects what follows and all Domains
	bars *mpb.Progress // of the open domains; nil if there are no bars
	open int           // number of domains that are not closed
}

// Domain is the progress of one domain.
type Domain struct {
	*Progress
	prefix string // of the disks' names
	disks  map[string]*diskProgress
	closed bool
}

type diskProgress struct {
	bar   *mpb.Bar
	start time.Time
	said  time.Time
	last  int64
	// came is the time from start to the last bytes. Bars read it while they are drawn.
	came atomic.Int64
}

// When bars are drawn.
const (
	BarsAuto   = "auto" // on a terminal
	BarsAlways = "always"
	BarsNever  = "never"
)

// NewProgress returns a Progress that is shown on out. when is BarsAuto, BarsAlways or
// BarsNever, done is what is done with the bytes, such as "copied".
func NewProgress(out io.Writer, when, done string) *Progress {
	return &Progress{out: out, draw: when == BarsAlways || when == BarsAuto && IsTerminal(out), mute: when == BarsNever, done: done}
}

// Of begins the progress of a domain. Its name is shown before the names of its disks, unless
// it is "". The caller closes it.
func (p *Progress) Of(domain string) *Domain {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open++
	if p.draw && p.bars == nil {
		p.bars = mpb.New(mpb.WithOutput(p.out), mpb.WithAutoRefresh())
	}
	d := &Domain{Progress: p, disks: map[string]*diskProgress{}}
	if domain != "" {
		d.prefix = domain + " "
	}
	return d
}

// IsTerminal tells whether a reader or writer is a terminal.
func IsTerminal(rw any) bool {
	f, ok := rw.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Write prints a log line.
func (p *Progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	bars := p.bars
	p.mu.Unlock()
	if bars != nil {
		return bars.Write(line)
	}
	return p.out.Write(line)
}

// Update sets how many bytes of a disk were copied, and how many are expected in all, -1 if
// that is unknown.
func (d *Domain) Update(target string, copied, expected int64) {
	if d.mute {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	disk := d.disks[target]
	if disk == nil {
		disk = &diskProgress{start: time.Now(), said: time.Now()}
		if d.bars != nil {
			disk.bar = newBar(d.bars, d.prefix+target, copied, &disk.came)
		}
		d.disks[target] = disk
	}
	// Several goroutines call: an older number may arrive late.
	if copied <= disk.last {
		return
	}
	disk.last = copied
	disk.came.Store(int64(time.Since(disk.start)))
	switch {
	case disk.bar != nil:
		disk.bar.SetTotal(max(expected, copied+1), false)
		disk.bar.SetCurrent(copied)
	case time.Since(disk.said) >= lineInterval:
		disk.said = time.Now()
		_, _ = fmt.Fprintln(d.out, progressLine(d.prefix+target, d.done, copied, expected, time.Since(disk.start)))
	}
}

// newBar makes a bar without a total: a bar with a total completes as soon as it is reached
// and then accepts no other, but the expected number is an estimate. The rate is that of
// the bytes from the first report to the last.
func newBar(bars *mpb.Progress, name string, first int64, came *atomic.Int64) *mpb.Bar {
	rate := func(s decor.Statistics) string { return barRate(s, first, time.Duration(came.Load())) }
	return bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.Any(barCount, decor.WCSyncSpace)),
		mpb.AppendDecorators(decor.OnAbort(decor.OnComplete(decor.Any(rate, decor.WCSyncSpace), "done"), "not done")))
}

func barCount(s decor.Statistics) string {
	return bytesize.Short(s.Current) + " / " + bytesize.Short(s.Total)
}

// barRate returns the mean rate and the time left, or nothing in the first second. A mean
// of the latest reports would jump, because they come in bursts.
func barRate(s decor.Statistics, first int64, elapsed time.Duration) string {
	if s.Current <= first || elapsed < time.Second {
		return ""
	}
	rate := float64(s.Current-first) / elapsed.Seconds()
	left := time.Duration(float64(s.Total-s.Current) / rate * float64(time.Second))
	return fmt.Sprintf("%s/s  %v", bytesize.Short(int64(rate)), left.Round(time.Second))
}

// progressLine returns the bytes, the rate and the time left.
func progressLine(name, done string, copied, expected int64, elapsed time.Duration) string {
	rate := float64(copied) / max(elapsed.Seconds(), 0.001)
	if expected <= copied {
		return fmt.Sprintf("%s: %s %s, %s/s", name, bytesize.Short(copied), done, bytesize.Short(int64(rate)))
	}
	text := fmt.Sprintf("%s: %s of about %s %s, %s/s", name, bytesize.Short(copied), bytesize.Short(expected), done, bytesize.Short(int64(rate)))
	if copied == 0 {
		return text
	}
	left := time.Duration(float64(expected-copied) / rate * float64(time.Second))
	return fmt.Sprintf("%s, about %v left", text, left.Round(time.Second))
}

// Close ends the bars of the domain, as done or not done. For the last open domain it waits
// until all bars are drawn, so that what is printed next appears below them.
func (d *Domain) Close(done bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	d.open--
	for _, disk := range d.disks {
		switch {
		case disk.bar == nil:
		case done:
			disk.bar.SetTotal(-1, true)
		default:
			disk.bar.Abort(false)
		}
	}
	if d.bars != nil && d.open == 0 {
		d.bars.Wait()
		d.bars = nil
	}
}
