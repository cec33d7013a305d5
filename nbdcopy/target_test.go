//go:build cgo

package nbdcopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/internal/panics"
)

// writable serves an image to any number of clients who may write.
func writable(t testing.TB, format, image string, more ...string) *server {
	t.Helper()
	args := []string{"--persistent", "--shared=0", "--socket=SOCKET", "--pid-file=PIDFILE", "--export-name=vda", "--format=" + format}
	return serve(t, "qemu-nbd", append(append(args, more...), image)...)
}

// writableKit serves what its plugin keeps, as export "".
func writableKit(t testing.TB, args ...string) *server {
	t.Helper()
	return serve(t, "nbdkit", append([]string{"--foreground", "--unix=SOCKET", "--pidfile=PIDFILE"}, args...)...)
}

func openTarget(t *testing.T, socket, export string, o TargetOptions) *Target {
	t.Helper()
	target, err := OpenTarget(context.Background(), socket, export, o)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// What is written side by side, data and zeros, is what QEMU reads afterwards; the last
// cluster reaches behind the end of the disk.
func TestTarget(t *testing.T) {
	const size, cluster = 24*mib + 5*512, 64 * kib
	dir := t.TempDir()
	for _, o := range []TargetOptions{{ClusterSize: cluster}, {ClusterSize: cluster, Connections: 1, Allocate: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			model := bytes.Repeat([]byte{0x11}, size)
			raw, image := filepath.Join(dir, "model"), filepath.Join(dir, "image.qcow2")
			if err := os.WriteFile(raw, model, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
			s := writable(t, "qcow2", image)
			leaks := watchLeaks(t)
			target := openTarget(t, s.socket, "vda", o)
			if target.Size() != size {
				t.Errorf("size %d, want %d", target.Size(), size)
			}
			writeRandomly(t, target, model, rand.New(rand.NewPCG(1, 2)))
			if err := errors.Join(target.Flush(), target.Close()); err != nil {
				t.Fatal(err)
			}
			leaks()
			if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			<-s.ended
			if err := os.WriteFile(raw, model, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, image)
		})
	}
}

// writeRandomly overwrites a random two thirds of a disk from four goroutines, and the model
// of it.
func writeRandomly(t *testing.T, target *Target, model []byte, random *rand.Rand) {
	t.Helper()
	cluster := int64(target.ClusterSize())
	size := int64(len(model))
	clusters := random.Perm(int((size + cluster - 1) / cluster))
	var group panics.Group
	group.SetLimit(4)
	for len(clusters) > 0 {
		n := min(1+random.IntN(40), len(clusters))
		var offsets []int64
		for _, k := range clusters[:n] {
			offsets = append(offsets, int64(k)*cluster)
		}
		clusters = clusters[n:]
		switch random.IntN(3) {
		case 0:
			data := make([]byte, int64(n)*cluster)
			for i, offset := range offsets {
				p := data[int64(i)*cluster : int64(i+1)*cluster]
				for k := range p[:min(cluster, size-offset)] {
					p[k] = byte(random.Uint32())
				}
				copy(model[offset:], p)
			}
			group.Go(func() error { return target.Write(offsets, data) })
		case 1:
			for _, offset := range offsets {
				length := min(cluster, size-offset)
				clear(model[offset : offset+length])
				group.Go(func() error { return target.Zero(offset, length) })
			}
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// The requests that the server gets: neighbours in one, holes only where they are allowed.
func TestTargetRequests(t *testing.T) {
	for _, allocate := range []bool{false, true} {
		log := filepath.Join(t.TempDir(), "log")
		s := writableKit(t, "--filter=log", "memory", "64M", "logfile="+log)
		target := openTarget(t, s.socket, "", TargetOptions{ClusterSize: 64 * kib, Connections: 1, Allocate: allocate})
		data := make([]byte, 4*64*kib)
		err := errors.Join(
			target.Write([]int64{64 * kib, 128 * kib, 192 * kib, 1 * mib}, data),
			target.Zero(2*mib, 3*mib), target.Flush(), target.Close())
		if err != nil {
			t.Fatal(err)
		}
		s.kill()
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		trim := "trim=1"
		if allocate {
			trim = "trim=0"
		}
		for _, want := range []string{" offset=0x10000 count=0x30000 fua=0", " offset=0x100000 count=0x10000 fua=0", // side by side
			"Zero id=3 offset=0x200000 count=0x300000 " + trim, " Flush id=4"} {
			if strings.Count(string(text), want) != 1 {
				t.Errorf("not one %q in\n%s", want, text)
			}
		}
	}
}

// An error says what failed where, and the target stays failed: nothing that was written
// counts.
func TestTargetErrors(t *testing.T) {
	plugin := func(more ...string) []string {
		args := []string{"eval", "get_size=echo 32M", "can_write=exit 0", "can_zero=exit 0", "can_flush=exit 0", "thread_model=echo parallel"}
		for _, other := range []string{"pwrite=cat >/dev/null", "zero=exit 0", "flush=exit 0"} {
			name, _, _ := strings.Cut(other, "=")
			if !slices.ContainsFunc(more, func(arg string) bool { return strings.HasPrefix(arg, name+"=") }) {
				args = append(args, other)
			}
		}
		return append(args, more...)
	}
	// Writes that touch 8 MiB fail, all others do not.
	badWrite := `cat >/dev/null; [ "$4" -gt 8388608 ] || [ $(($4 + $3)) -le 8388608 ] || { echo ENOSPC full >&2; exit 1; }`
	tests := []struct {
		name  string
		args  []string
		do    func(*Target) error
		texts []string
		errno syscall.Errno
	}{
		{"write", plugin("pwrite=" + badWrite), func(t *Target) error {
			return t.Write([]int64{0, 8 * mib, 9 * mib}, make([]byte, 3*64*kib))
		}, []string{"write 65536 bytes at offset 8388608 of NBD export"}, syscall.ENOSPC},
		{"zero", plugin("zero=echo EIO disk on fire >&2; exit 1"), func(t *Target) error { return t.Zero(mib, mib) },
			[]string{"zero 1048576 bytes at offset 1048576 of NBD export"}, syscall.EIO},
		{"flush", plugin("flush=echo EIO disk on fire >&2; exit 1"), (*Target).Flush, []string{"flush NBD export"}, syscall.EIO},
		{"behind the end", plugin(), func(t *Target) error { return t.Write([]int64{32 * mib}, make([]byte, 64*kib)) },
			[]string{"write at offset 33554432 of NBD export"}, 0},
		{"zeros behind the end", plugin(), func(t *Target) error { return t.Zero(32*mib, 512) },
			[]string{"zero 512 bytes at offset 33554432 of NBD export"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := writableKit(t, tt.args...)
			leaks := watchLeaks(t)
			target := openTarget(t, s.socket, "", TargetOptions{ClusterSize: 64 * kib})
			err := tt.do(target)
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			for _, text := range append(tt.texts, s.socket) {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not contain %q", err, text)
				}
			}
			if tt.errno != 0 && !errors.Is(err, tt.errno) {
				t.Errorf("%v is no %v", err, tt.errno)
			}
			for name, again := range map[string]error{"Write": target.Write([]int64{0}, make([]byte, 64*kib)),
				"Zero": target.Zero(0, mib), "Flush": target.Flush()} {
				if !errors.Is(again, err) {
					t.Errorf("%s after the error returned %v", name, again)
				}
			}
			if err := target.Close(); err != nil {
				t.Error(err)
			}
			leaks()
		})
	}
}

func TestTargetRefused(t *testing.T) {
	path := image(t, "qcow2", "1M")
	readOnly, noFlush := qemuNBD(t, "qcow2", path), writableKit(t, "eval", "get_size=echo 1M", "can_write=exit 0", "pwrite=cat >/dev/null", "can_flush=exit 3")
	for name, tt := range map[string]struct {
		socket, export string
		options        TargetOptions
		want           string
	}{
		"read-only":    {readOnly.socket, "vda", TargetOptions{ClusterSize: 4096}, "is read-only"},
		"no flush":     {noFlush.socket, "", TargetOptions{ClusterSize: 4096}, "cannot be flushed"},
		"no export":    {readOnly.socket, "vdb", TargetOptions{ClusterSize: 4096}, `"vdb"`},
		"no server":    {"/nonexistent/s", "vda", TargetOptions{ClusterSize: 4096}, "/nonexistent/s"},
		"cluster size": {readOnly.socket, "vda", TargetOptions{ClusterSize: 3000}, "cluster size 3000"},
		"connections":  {readOnly.socket, "vda", TargetOptions{ClusterSize: 4096, Connections: -1}, "-1 connections"},
	} {
		t.Run(name, func(t *testing.T) {
			leaks := watchLeaks(t)
			_, err := OpenTarget(context.Background(), tt.socket, tt.export, tt.options)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			leaks()
		})
	}
}

// Requests wait side by side: those of one call, and those of several.
func TestTargetSideBySide(t *testing.T) {
	s := writableKit(t, "--filter=delay", "--threads=64", "memory", "64M", "wdelay=200ms")
	target := openTarget(t, s.socket, "", TargetOptions{ClusterSize: 4 * kib})
	start := time.Now()
	var group panics.Group
	for i := range int64(4) {
		group.Go(func() error {
			var offsets []int64
			for k := range int64(16) {
				offsets = append(offsets, i*16*mib+k*64*kib)
			}
			return target.Write(offsets, make([]byte, 16*4*kib))
		})
	}
	if err := errors.Join(group.Wait(), target.Close()); err != nil {
		t.Fatal(err)
	}
	// One after the other would be 12.8 s, one call after the other 0.8 s at best.
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

// A server that does not answer is not waited for once ctx is cancelled, and one that dies
// is an error.
func TestTargetEnds(t *testing.T) {
	stop := errors.New("stop it")
	for _, killed := range []bool{false, true} {
		for name, do := range map[string]func(*Target) error{
			"write": func(t *Target) error { return t.Write([]int64{0, mib}, make([]byte, 128*kib)) },
			"zero":  func(t *Target) error { return t.Zero(0, mib) },
		} {
			t.Run(fmt.Sprintf("%s, killed %v", name, killed), func(t *testing.T) {
				s := writableKit(t, "--filter=delay", "memory", "64M", "wdelay=60", "delay-zero=60")
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				leaks := watchLeaks(t)
				target, err := OpenTarget(ctx, s.socket, "", TargetOptions{ClusterSize: 64 * kib})
				if err != nil {
					t.Fatal(err)
				}
				timer := time.AfterFunc(300*time.Millisecond, func() {
					if killed {
						_ = s.cmd.Process.Kill()
					} else {
						cancel(stop)
					}
				})
				defer timer.Stop()
				start := time.Now()
				err = do(target)
				if took := time.Since(start); took > 20*time.Second {
					t.Errorf("ended after %v", took)
				}
				t.Log(err)
				if !killed && !errors.Is(err, stop) {
					t.Errorf("error %v, want the cause of the end", err)
				}
				if killed && (err == nil || !strings.Contains(err.Error(), s.socket)) {
					t.Errorf("error %v, want one with the socket", err)
				}
				if target.Flush() == nil {
					t.Error("a flush after that succeeds")
				}
				if err := target.Close(); err != nil {
					t.Error(err)
				}
				leaks()
			})
		}
	}
}
