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
)

// lineInterval is how often a log gets a line about a disk that is being copied.
const lineInterval = 30 * time.Second

// Progress shows how the disks of all domains that are worked on get on: as bars on a
// terminal, as a line now and then in a log, or not at all. Log lines go through it, so
// that they stand above the bars.
type Progress struct {
	out  io.Writer
	draw bool // bars, not lines
	mute bool
	done string // what has been done with the bytes: copied

	mu   sync.Mutex    // of all that follows, and of the domains
	bars *mpb.Progress // of the open domains; nil where there are none
	open int           // domains
}

// Domain is the progress of one domain.
type Domain struct {
	*Progress
	prefix string // of its disks
	disks  map[string]*diskProgress
	closed bool
}

type diskProgress struct {
	bar   *mpb.Bar
	start time.Time
	said  time.Time
	last  int64
	// came is how long after start the last bytes came: bars read it while they are drawn.
	came atomic.Int64
}

// When bars are drawn.
const (
	BarsAuto   = "auto" // on a terminal
	BarsAlways = "always"
	BarsNever  = "never"
)

// NewProgress shows on out what has been done ("copied") with the bytes of disks. when is
// BarsAuto, BarsAlways or BarsNever.
func NewProgress(out io.Writer, when, done string) *Progress {
	return &Progress{out: out, draw: when == BarsAlways || when == BarsAuto && isTerminal(out), mute: when == BarsNever, done: done}
}

// Of begins the progress of a domain, whose name stands before its disks, if there is one.
// The caller closes it.
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

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
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

// Update takes how many bytes of a disk are copied of how many expected, -1
// unknown.
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
	// Calls come from several goroutines: an older one may come late.
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

// newBar makes a bar without a total: one with a total completes by itself as
// soon as it gets there, and never takes another total, but what is expected is
// an estimate. The rate is that of the bytes after the first, until the last came.
func newBar(bars *mpb.Progress, name string, first int64, came *atomic.Int64) *mpb.Bar {
	rate := func(s decor.Statistics) string { return barRate(s, first, time.Duration(came.Load())) }
	return bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.Any(barCount, decor.WCSyncSpace)),
		mpb.AppendDecorators(decor.OnAbort(decor.OnComplete(decor.Any(rate, decor.WCSyncSpace), "done"), "not done")))
}

func barCount(s decor.Statistics) string { return Size(s.Current) + " / " + Size(s.Total) }

// barRate is the mean rate and the time left, or nothing before the first second: a
// mean of the newest reports alone jumps, as they come in bursts.
func barRate(s decor.Statistics, first int64, elapsed time.Duration) string {
	if s.Current <= first || elapsed < time.Second {
		return ""
	}
	rate := float64(s.Current-first) / elapsed.Seconds()
	left := time.Duration(float64(s.Total-s.Current) / rate * float64(time.Second))
	return fmt.Sprintf("%s/s  %v", Size(int64(rate)), left.Round(time.Second))
}

// progressLine says bytes, rate and time left.
func progressLine(name, done string, copied, expected int64, elapsed time.Duration) string {
	rate := float64(copied) / max(elapsed.Seconds(), 0.001)
	if expected <= copied {
		return fmt.Sprintf("%s: %s %s, %s/s", name, Size(copied), done, Size(int64(rate)))
	}
	text := fmt.Sprintf("%s: %s of about %s %s, %s/s", name, Size(copied), Size(expected), done, Size(int64(rate)))
	if copied == 0 {
		return text
	}
	left := time.Duration(float64(expected-copied) / rate * float64(time.Second))
	return fmt.Sprintf("%s, about %v left", text, left.Round(time.Second))
}

// Close ends the bars of the domain, as done or not. With those of the last domain that is
// open it waits until all are drawn, so that what is printed next stands below them.
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
