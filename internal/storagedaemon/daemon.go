// Package storagedaemon runs a qemu-storage-daemon that serves disk images over NBD, with the
// code of QEMU itself: it reads chains of images and their bitmaps, and what is written through
// it is recorded in the bitmaps of the image.
//
// It is controlled by QMP over its standard input and output, so it has no socket for that. It
// does not outlive this process, whatever ends it (PR_SET_PDEATHSIG, prctl(2)): while it has an
// image open, the domain cannot start.
package storagedaemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/virtbackup/virtbackup/internal/imagelock"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/qemuimg"
	"github.com/virtbackup/virtbackup/internal/tail"
)

// quitTime is how long a daemon may take to store its bitmaps and to end.
const quitTime = time.Minute

// keptErrors is how much is kept of what the daemon writes to its standard error, in bytes.
const keptErrors = 4 << 10

// Daemon is a qemu-storage-daemon that runs. Its methods may be called by several goroutines.
type Daemon struct {
	socket   string
	writable bool
	cmd      *exec.Cmd
	monitor  *monitor
	stderr   *tail.Writer
	ended    chan struct{} // closed once the process has ended, and err is set
	err      error         // how it ended
	exported sync.Once

	mu    sync.Mutex
	locks []*imagelock.Lock // held until the daemon has ended
}

// most is how long the path of a directory may be that gets directories with sockets.
const most = 48

// TempDir is the directory for temporary directories with sockets: os.TempDir, or /tmp where the
// path of a socket in that would be too long (unix(7): it has less than 108 bytes).
func TempDir() string {
	if dir := os.TempDir(); len(dir) <= most {
		return dir
	}
	return "/tmp"
}

// Start starts a daemon, whose NBD socket will be in a directory that only this user can enter
// (unix(7): the path of a socket has less than 108 bytes). A daemon that is not writable only
// opens images for reading: killing it harms nothing. The caller closes the daemon.
func Start(ctx context.Context, dir string, writable bool) (*Daemon, error) {
	d := &Daemon{socket: filepath.Join(dir, "nbd.sock"), writable: writable, stderr: tail.New(keptErrors), ended: make(chan struct{})}
	d.cmd = exec.Command("qemu-storage-daemon", "--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp") // ended by Close
	d.cmd.Env = append(os.Environ(), "LC_ALL=C")
	d.cmd.Stderr = d.stderr
	d.cmd.WaitDelay = time.Second
	// A writer stores its bitmaps on SIGTERM; for a reader nothing is faster than SIGKILL. It has a
	// session of its own, so that Ctrl-C on the terminal ends this process in order.
	death := syscall.SIGKILL
	if writable {
		death = syscall.SIGTERM
	}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: death}
	in, err := d.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	panics.Go(func() error {
		// The signal is sent when the thread ends that has started the process (prctl(2)): this
		// one waits for it.
		runtime.LockOSThread()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			d.err = d.cmd.Wait()
			close(d.ended)
		}
		return nil
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start qemu-storage-daemon: %w", err)
	}
	d.monitor = newMonitor(in, out)
	if err := d.monitor.greet(ctx); err != nil {
		return nil, errors.Join(d.explain(err), d.Close())
	}
	return d, nil
}

// Socket is the path of the unix socket that Export serves at.
func (d *Daemon) Socket() string { return d.socket }

// Ended is closed once the daemon has ended.
func (d *Daemon) Ended() <-chan struct{} { return d.ended }

// Pid is the process's id.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Close ends the daemon, and waits for that. One that is writable stores the bitmaps of its
// images and writes out what is cached; an error says that this may have failed. Calling it
// again does nothing.
func (d *Daemon) Close() error {
	select {
	case <-d.ended:
	default:
		d.end()
	}
	_ = os.Remove(d.socket)
	d.unlock()
	if d.writable && d.err != nil {
		return fmt.Errorf("qemu-storage-daemon: %w: %s", d.err, strings.TrimSpace(d.stderr.String()))
	}
	return nil
}

// excludeWriters keeps others from writing to an image until the daemon has ended.
func (d *Daemon) excludeWriters(path string) error {
	lock, err := imagelock.ExcludeWriters(path)
	if errors.Is(err, imagelock.ErrHeld) {
		err = fmt.Errorf("%w: %w", qemuimg.ErrLocked, err)
	}
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.locks = append(d.locks, lock)
	return nil
}

func (d *Daemon) unlock() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, lock := range d.locks {
		_ = lock.Close() // it was only read
	}
	d.locks = nil
}

func (d *Daemon) end() {
	if !d.writable {
		_ = d.cmd.Process.Kill()
		<-d.ended
		return
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(quitTime):
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
}

// explain adds to the error of a command that the daemon has ended, and what it said.
func (d *Daemon) explain(err error) error {
	if !errors.Is(err, errGone) {
		return err
	}
	select {
	case <-d.ended:
	case <-time.After(time.Second):
	}
	return fmt.Errorf("qemu-storage-daemon: %w: %s", err, strings.TrimSpace(d.stderr.String()))
}
