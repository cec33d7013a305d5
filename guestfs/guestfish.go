package guestfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/internal/tail"
)

// endTime is how long guestfish may take to end its appliance before it is killed, and leaves an empty
// directory in /tmp. On a busy machine without KVM more than 10 seconds were seen.
const endTime = time.Minute

// interruptAgain is how long guestfish may take to notice that its children are gone. It may have
// started another one meanwhile.
const interruptAgain = 3 * time.Second

// guestfish is a guestfish that runs, with an appliance. It reads commands from a pipe. The first
// that fails ends it: so all errors are at the end of its standard error, and whoever waits for the
// answer of a command gets the end of its standard output instead.
//
// It ends by itself if this process is killed: there are no more commands then, and no disks.
type guestfish struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail.Writer
	mark   string // a line that no guest can know
	fifo   string // where it writes what goes to a file
	ended  <-chan error
	err    error // how it ended
	done   bool  // err is set
}

// lookUp finds the program.
func lookUp() (string, error) {
	program, err := exec.LookPath("guestfish")
	if err != nil {
		return "", fail.WithHint(fmt.Errorf("files of a guest are read with libguestfs, which is not installed: %w", err),
			"apt-get install libguestfs-tools, or dnf install guestfs-tools; virtbackup serve and restore do without")
	}
	return program, nil
}

// startGuestfish starts it, with disks that are NBD exports at a socket, in that order. dir is for
// its temporary files and the caller's to remove, cache for its appliance.
func startGuestfish(dir, cache, socket string, exports []string) (*guestfish, error) {
	program, err := lookUp()
	if err != nil {
		return nil, err
	}
	g := &guestfish{mark: rand.Text(), fifo: filepath.Join(dir, "data")}
	if err := unix.Mkfifo(g.fifo, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: g.fifo, Err: err}
	}
	args := []string{"--ro", "--no-progress-bars", "--format=raw"}
	for _, export := range exports {
		args = append(args, "-a", "nbd:///"+export+"?socket="+socket)
	}
	g.cmd = exec.Command(program, args...) // ended by end
	// The appliance runs as this user, who alone may connect to the socket: libvirt's would not.
	g.cmd.Env = append(os.Environ(), "LC_ALL=C", "LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_DEBUG=0", "LIBGUESTFS_TRACE=0", "TMPDIR="+dir, "LIBGUESTFS_TMPDIR="+dir, "LIBGUESTFS_CACHEDIR="+cache)
	g.stderr = tail.New(keptErrors)
	g.cmd.Stderr = g.stderr
	// Ctrl-C on the terminal is for this process, which ends the other one in order.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	g.cmd.WaitDelay = time.Second
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// Not StdoutPipe, which Wait closes before all is read.
	out, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	g.cmd.Stdout = write
	err = g.cmd.Start()
	write.Close() // guestfish has its own
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start guestfish: %w", err)
	}
	g.out = bufio.NewReader(out)
	g.ended = panics.Go(func() error {
		defer out.Close()
		return g.cmd.Wait()
	})
	return g, nil
}

// run runs a command and returns what it prints.
func (g *guestfish) run(name string, args ...string) ([]byte, error) {
	line, err := command(name, args...)
	if err != nil {
		return nil, err
	}
	return g.answer(line)
}

// answer sends a line and returns what guestfish prints.
func (g *guestfish) answer(line string) ([]byte, error) {
	if _, err := fmt.Fprintf(g.in, "%s\necho %s\n", line, g.mark); err != nil {
		return nil, g.failed(line)
	}
	var printed []byte
	for end := []byte(g.mark + "\n"); ; {
		part, err := g.out.ReadSlice('\n')
		printed = append(printed, part...)
		switch {
		case bytes.HasSuffix(printed, end):
			return printed[:len(printed)-len(end)], nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, g.failed(line)
		}
	}
}

// is runs a command that answers with true or false.
func (g *guestfish) is(name string, args ...string) (bool, error) {
	printed, err := g.run(name, args...)
	return string(printed) == "true\n", err
}

// lines runs a command that prints lines.
func (g *guestfish) lines(name string, args ...string) ([]string, error) {
	printed, err := g.run(name, args...)
	text := strings.TrimSuffix(string(printed), "\n")
	if text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), err
}

// stream runs a command that writes to a file, and calls do with what it writes: all of it, if the
// error is nil. The name of the file follows the arguments, and options that are ours follow that.
func (g *guestfish) stream(do func(io.Reader) error, options, name string, args ...string) error {
	// This end is open before guestfish opens its own, and there is no end of file before guestfish
	// is done, whenever it opens the fifo and if it does at all.
	r, err := os.OpenFile(g.fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	w, err := os.OpenFile(g.fifo, os.O_WRONLY, 0)
	if err != nil {
		r.Close()
		return err
	}
	did := panics.Go(func() error {
		err := do(r)
		if err != nil {
			// Closed early, the fifo would kill guestfish (SIGPIPE), which would remove nothing then.
			g.interrupt()
			_, _ = io.Copy(io.Discard, r)
		}
		return err
	})
	line, err := command(name, append(args, g.fifo)...)
	if err == nil {
		_, err = g.answer(line + options)
	}
	w.Close()
	doErr := <-did
	r.Close()
	if err != nil && doErr != nil {
		return doErr // the cause, or that it was cut short
	}
	return errors.Join(err, doErr)
}

// failed is the error of a command after which guestfish has ended.
func (g *guestfish) failed(line string) error {
	_ = g.in.Close()
	err := g.wait(endTime)
	said := said(g.stderr.String())
	if said == "" {
		name, _, _ := strings.Cut(line, " ")
		return fmt.Errorf("guestfish has ended during %s: %w", name, err)
	}
	return errors.New(said)
}

// wait waits until guestfish has ended, or kills it.
func (g *guestfish) wait(patience time.Duration) error {
	if g.done {
		return g.err
	}
	select {
	case g.err = <-g.ended:
	case <-time.After(patience):
		_ = unix.Kill(-g.cmd.Process.Pid, unix.SIGKILL) // libguestfs's own watcher ends QEMU then
		g.err = <-g.ended
	}
	g.done = true
	return g.err
}

// end ends guestfish and its appliance.
func (g *guestfish) end() {
	_ = g.in.Close()
	_ = g.wait(endTime)
}

// interrupt makes the command under way fail, so that guestfish ends and removes what it has made:
// it has no handler for signals, but notices when its children, QEMU among them, are gone. The one
// that removes its files is not disturbed.
func (g *guestfish) interrupt() {
	_ = g.in.Close()
	pid := strconv.Itoa(g.cmd.Process.Pid)
	children, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children") // none once it has ended
	for child := range strings.FieldsSeq(string(children)) {
		comm, _ := os.ReadFile("/proc/" + child + "/comm")
		if n, err := strconv.Atoi(child); err == nil && string(comm) != "rm\n" {
			_ = unix.Kill(n, unix.SIGTERM)
		}
	}
}

// whileRunning calls do, and interrupts guestfish when ctx is cancelled.
func (g *guestfish) whileRunning(ctx context.Context, do func() error) error {
	over := make(chan struct{})
	watched := panics.Go(func() error {
		select {
		case <-over:
			return nil
		case <-ctx.Done():
		}
		for {
			g.interrupt()
			select {
			case <-over:
				return nil
			case <-time.After(interruptAgain):
			}
		}
	})
	err := panics.Catch(do)
	g.end()
	close(over)
	if err := errors.Join(err, <-watched); err == nil || ctx.Err() == nil {
		return err
	}
	return context.Cause(ctx)
}
