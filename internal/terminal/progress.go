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

// Progress shows how the disks get on: as bars on a terminal, as a line now and
// then in a log, or not at all. Log lines go through it, so that they stand above
// the bars.
type Progress struct {
	out  io.Writer
	bars *mpb.Progress // nil: lines
	mute bool
	done string // what has been done with the bytes: copied

	mu    sync.Mutex
	disks map[string]*diskProgress
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

// StartProgress shows on out what has been done ("copied") with the bytes of disks. The
// caller closes it.
func StartProgress(out io.Writer, when, done string) *Progress {
	p := &Progress{out: out, mute: when == BarsNever, done: done, disks: map[string]*diskProgress{}}
	if when == BarsAlways || when == BarsAuto && isTerminal(out) {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh())
	}
	return p
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
func (p *Progress) Update(target string, copied, expected int64) {
	if p.mute {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.disks[target]
	if d == nil {
		d = &diskProgress{start: time.Now(), said: time.Now()}
		if p.bars != nil {
			d.bar = newBar(p.bars, target, copied, &d.came)
		}
		p.disks[target] = d
	}
	// Calls come from several goroutines: an older one may come late.
	if copied <= d.last {
		return
	}
	d.last = copied
	d.came.Store(int64(time.Since(d.start)))
	switch {
	case d.bar != nil:
		d.bar.SetTotal(max(expected, copied+1), false)
		d.bar.SetCurrent(copied)
	case time.Since(d.said) >= lineInterval:
		d.said = time.Now()
		_, _ = fmt.Fprintln(p.out, progressLine(target, p.done, copied, expected, time.Since(d.start)))
	}
}

// newBar makes a bar without a total: one with a total completes by itself as
// soon as it gets there, and never takes another total, but what is expected is
// an estimate. The rate is that of the bytes after the first, until the last came.
func newBar(bars *mpb.Progress, target string, first int64, came *atomic.Int64) *mpb.Bar {
	rate := func(s decor.Statistics) string { return barRate(s, first, time.Duration(came.Load())) }
	return bars.AddBar(0,
		mpb.PrependDecorators(decor.Name(target, decor.WCSyncSpaceR), decor.Any(barCount, decor.WCSyncSpace)),
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
func progressLine(target, done string, copied, expected int64, elapsed time.Duration) string {
	rate := float64(copied) / max(elapsed.Seconds(), 0.001)
	if expected <= copied {
		return fmt.Sprintf("%s: %s %s, %s/s", target, Size(copied), done, Size(int64(rate)))
	}
	text := fmt.Sprintf("%s: %s of about %s %s, %s/s", target, Size(copied), Size(expected), done, Size(int64(rate)))
	if copied == 0 {
		return text
	}
	left := time.Duration(float64(expected-copied) / rate * float64(time.Second))
	return fmt.Sprintf("%s, about %v left", text, left.Round(time.Second))
}

// Close ends the bars, as done or not, and waits until they are drawn.
func (p *Progress) Close(done bool) {
	p.mu.Lock()
	bars := p.bars
	for _, d := range p.disks {
		switch {
		case d.bar == nil:
		case done:
			d.bar.SetTotal(-1, true)
		default:
			d.bar.Abort(false)
		}
	}
	p.mu.Unlock()
	if bars != nil {
		bars.Wait()
	}
	p.mu.Lock()
	p.bars = nil
	p.mu.Unlock()
}
