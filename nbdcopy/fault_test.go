//go:build cgo

package nbdcopy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/extent/extenttest"
)

// failCopy opens and copies, wants an error within a few seconds, and nothing
// left behind. Each of the texts must be in the error.
func failCopy(t *testing.T, ctx context.Context, src Source, sink *extenttest.Recorder, texts ...string) error {
	t.Helper()
	leaks := watchLeaks(t)
	start := time.Now()
	err := func() error {
		e, err := Open(ctx, src)
		if err != nil {
			return err
		}
		defer e.Close()
		sink.Size = e.Size()
		_, err = e.Copy(ctx, sink, Options{})
		return err
	}()
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("took %v to fail", took)
	}
	if err == nil {
		t.Fatal("no error")
	}
	t.Log(err)
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not contain %q", err, text)
		}
	}
	if strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("error of several lines: %q", err)
	}
	leaks()
	return err
}

func newRecorder() *extenttest.Recorder { return &extenttest.Recorder{Cluster: 64 * kib} }

func TestOpenErrors(t *testing.T) {
	path := image(t, "qcow2", "1M")
	s := qemuNBD(t, "qcow2", path)
	gone := filepath.Join(t.TempDir(), "gone")
	noServer := filepath.Join(t.TempDir(), "dead") // a socket that nobody listens on
	killed := qemuNBD(t, "qcow2", path)
	killed.kill()
	if err := os.Rename(killed.socket, noServer); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		src   Source
		texts []string
		errno syscall.Errno
	}{
		{"no socket", Source{Socket: gone, Export: "vda"}, []string{`"vda"`, gone, "No such file"}, syscall.ENOENT},
		{"no server", Source{Socket: noServer, Export: "vda"}, []string{`"vda"`, noServer, "refused"}, syscall.ECONNREFUSED},
		{"no export", Source{Socket: s.socket, Export: "vdb"}, []string{`"vdb"`, s.socket}, 0},
		{"no bitmap", Source{Socket: s.socket, Export: "vda", Bitmap: "b"}, []string{`"vda"`, s.socket, "qemu:dirty-bitmap:b"}, 0},
		{"long socket", Source{Socket: "/" + strings.Repeat("x", 200), Export: "vda"}, []string{"too long"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := failCopy(t, context.Background(), tt.src, newRecorder(), tt.texts...)
			if tt.errno != 0 && !errors.Is(err, tt.errno) {
				t.Errorf("error %v is no %v", err, tt.errno)
			}
		})
	}
}

// An error of the server stops the copy and says where it happened.
func TestReadErrors(t *testing.T) {
	// Reads touching [8 MiB, 8 MiB + 64 KiB) fail, all others do not.
	script := `[ "$4" -gt 8388608 ] || [ $(($4 + $3)) -le 8388608 ] || { echo EIO disk on fire >&2; exit 1; }
		dd if=/dev/zero count=$3 iflag=count_bytes status=none`
	s := nbdkit(t, "eval", "get_size=echo 32M", "pread="+script, "thread_model=echo parallel")
	err := failCopy(t, context.Background(), Source{Socket: s.socket}, newRecorder(),
		"read 524288 bytes at offset 8388608 of NBD export", s.socket, "input/output error")
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%v is no EIO", err)
	}
}

// Any read may fail, many at once.
func TestManyReadErrors(t *testing.T) {
	s := nbdkit(t, "--filter=error", "pattern", "size=64M", "error=EIO", "error-pread-rate=50%")
	err := failCopy(t, context.Background(), Source{Socket: s.socket}, newRecorder(), "read ", " at offset ", s.socket)
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%v is no EIO", err)
	}
}

func TestBlockStatusError(t *testing.T) {
	s := nbdkit(t, "--filter=error", "memory", "64M", "error=EIO", "error-extents-rate=100%")
	err := failCopy(t, context.Background(), Source{Socket: s.socket}, newRecorder(), "block status of ", " at offset 0", s.socket)
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%v is no EIO", err)
	}
}

// Late replies, out of order, are no error.
func TestDelayedReplies(t *testing.T) {
	s := nbdkit(t, "--filter=delay", "pattern", "size=64M", "rdelay=300ms")
	start := time.Now()
	sink, _ := copyAll(t, Source{Socket: s.socket}, Options{})
	// 128 reads of 300 ms side by side; one after the other would be 38 s.
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
	wantOps(t, sink, []extent.Extent{extenttest.Data(0, 64*mib)})
	for off := 0; off < len(sink.Bytes); off += 8 { // pattern is each offset as a big endian number
		if sink.Bytes[off+7] != byte(off) || sink.Bytes[off+5] != byte(off>>16) {
			t.Fatalf("wrong data at %d", off)
		}
	}
}

// A server that does not answer is not waited for once ctx is cancelled.
func TestCancel(t *testing.T) {
	stop := errors.New("stop it")
	for name, delay := range map[string]string{"reads": "rdelay=60", "block status": "delay-extents=60", "connecting": "delay-open=60"} {
		t.Run(name, func(t *testing.T) {
			s := nbdkit(t, "--filter=delay", "data", "( 0x55 )*67108864", delay) // pattern has no extents
			ctx, cancel := context.WithCancelCause(context.Background())
			timer := time.AfterFunc(300*time.Millisecond, func() { cancel(stop) })
			defer timer.Stop()
			start := time.Now()
			err := failCopy(t, ctx, Source{Socket: s.socket}, newRecorder())
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("ended %v after the start, not 300 ms", took)
			}
			if !errors.Is(err, stop) {
				t.Errorf("error %v, want the cause of the end", err)
			}
		})
	}
}

// The end of a context between Open and Copy, and before Open.
func TestCancelled(t *testing.T) {
	s := nbdkit(t, "pattern", "size=64M")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := failCopy(t, ctx, Source{Socket: s.socket}, newRecorder()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	e, err := Open(context.Background(), Source{Socket: s.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Copy(ctx, newRecorder(), Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A server that dies in mid-copy.
func TestServerKilled(t *testing.T) {
	for name, args := range map[string][]string{
		"while it reads":         {"rdelay=100ms"},
		"while it says nothing":  {"rdelay=60"},
		"while its status waits": {"delay-extents=60"},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbdkit(t, append([]string{"--filter=delay", "data", "( 0x55 )*67108864", "size=16G"}, args...)...)
			timer := time.AfterFunc(300*time.Millisecond, func() { _ = s.cmd.Process.Kill() })
			defer timer.Stop()
			err := failCopy(t, context.Background(), Source{Socket: s.socket}, newRecorder(), " at offset ", s.socket)
			// It is "Connection reset by peer" where requests were not read yet.
			if !strings.Contains(strings.ToLower(err.Error()), "connect") {
				t.Errorf("error %q does not say that the connection ended", err)
			}
		})
	}
}

// A server that accepts two clients: the connection of Open and one of the two that read.
// The disk is so large that the first is still reading when the second connects: of a
// disk of one batch it may have read all by then, and be gone.
func TestServerTurnsClientsAway(t *testing.T) {
	s := nbdkit(t, "--filter=exitlast", "--filter=limit", "pattern", "size=16G", "limit=2")
	failCopy(t, context.Background(), Source{Socket: s.socket}, newRecorder(), "connect to", s.socket)
	select {
	case <-s.ended: // exitlast: it ends with its last client
	case <-time.After(5 * time.Second):
		t.Error("a connection is still open")
	}
}

// With exitlast the server's end proves that all connections are closed.
func TestCopyClosesConnections(t *testing.T) {
	s := nbdkit(t, "--filter=exitlast", "pattern", "size=8M")
	copyAll(t, Source{Socket: s.socket}, Options{Connections: 4})
	select {
	case <-s.ended:
	case <-time.After(5 * time.Second):
		t.Error("a connection is still open")
	}
}

// The sink's first error stops the copy and is returned.
func TestSinkErrors(t *testing.T) {
	full := errors.New("no space left on device")
	for _, op := range []string{"write", "zero"} {
		t.Run(op, func(t *testing.T) {
			s := nbdkit(t, "data", "( 0x55 )*67108864", "size=16G")
			sink := newRecorder()
			sink.Fail = func(o string, offset int64) error {
				if o == op && offset > 20*mib {
					return full
				}
				return nil
			}
			if err := failCopy(t, context.Background(), Source{Socket: s.socket}, sink, "guest offset"); !errors.Is(err, full) {
				t.Error(err)
			}
		})
	}
}

// A slow sink slows the copy, but not its cancellation.
func TestSlowSinkIsCancelled(t *testing.T) {
	s := nbdkit(t, "pattern", "size=16G")
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	sink := newRecorder()
	sink.Fail = func(string, int64) error { time.Sleep(20 * time.Millisecond); return nil }
	if err := failCopy(t, ctx, Source{Socket: s.socket}, sink); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := len(sink.Writes()); n > 200 {
		t.Errorf("%d writes", n)
	}
}

// panicSink panics in a goroutine of the copy.
type panicSink struct{ *extenttest.Recorder }

func (panicSink) Write([]int64, []byte) error { panic("out of my depth") }

// A panic of a sink stops the copy, not the process: the run has things to undo.
func TestPanicIsAnError(t *testing.T) {
	s := qemuNBD(t, "raw", image(t, "raw", "4M", "write -P 1 0 4M"))
	e, err := Open(context.Background(), Source{Socket: s.socket, Export: "vda"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	_, err = e.Copy(context.Background(), panicSink{newRecorder()}, Options{})
	if err == nil || !strings.Contains(err.Error(), "out of my depth") {
		t.Errorf("%v, want the panic", err)
	}
}
