package tests

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// What is written while the job runs is not in the point, on no disk, and is
// all in the next one.
func TestInstant(t *testing.T) {
	s := newSite(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20},
		testdomain.Disk{Target: "vdb", Size: 32<<20 + 512, Backing: "qcow2"}))
	s.IO("vda", "write -P 0x11 0 48M")
	s.IO("vdb", "write -P 0x12 0 8M")
	for _, kind := range []string{"full", "inc", "diff"} {
		s.backUpWhileWriting(kind)
		wantKinds(t, s.points[len(s.points)-1].Manifest, map[bool]string{true: "vda full, vdb full", false: "vda inc, vdb inc"}[kind == "full"])
	}
	s.backUp(0, "inc")
	s.check()
}

// backUpWhileWriting makes a point, stops virtbackup before it has read
// anything, overwrites, zeroes and discards what it is to read, lets it go on,
// and writes on until it ends.
func (s *site) backUpWhileWriting(kind string) {
	s.t.Helper()
	n := len(s.points)
	s.IO("vda", fmt.Sprintf("write -P %#x 10M 20M", 0x20+n), "write -z 40M 100k", "discard 20M 1M")
	s.IO("vdb", fmt.Sprintf("write -P %#x 5M 3000", 0x30+n))
	truth := s.truths()
	p := s.program.Start(s.t, "--json", kind, s.Name)
	s.stopAtSocket(p)
	s.IO("vda", fmt.Sprintf("write -P %#x 0 16M", 0x40+n), "write -z 16M 3M", "write -z -u 20M 5M", "discard 28M 1M",
		fmt.Sprintf("write -P %#x 60M 1000", 0x50+n), "write -P 0x99 95M 1M", "write -P 0x98 40M 200k")
	s.IO("vdb", fmt.Sprintf("write -P %#x 0 33554944", 0x60+n), "write -z -u 1M 64k")
	continueStopped(p)
	stop, ended := make(chan struct{}), make(chan int)
	go func() { ended <- s.writeOn(stop) }()
	r := p.Wait()
	close(stop)
	s.t.Logf("%d writes while virtbackup read", <-ended)
	if r.Code != 0 {
		s.t.Fatalf("%s: exit %d", kind, r.Code)
	}
	s.add(r, truth)
}

// stopAtSocket stops virtbackup as soon as QEMU has its NBD socket, when
// libvirt has not yet answered that the job has begun, and waits until it has.
func (s *site) stopAtSocket(p *testdomain.Process) {
	s.t.Helper()
	pattern := fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*-%.8s-*.sock", s.UUID)
	await(s.t, "QEMU's socket", time.Millisecond, func() bool {
		found, err := filepath.Glob(pattern)
		return err == nil && len(found) > 0
	})
	p.Signal(syscall.SIGSTOP)
	await(s.t, "the exports of all disks", 50*time.Millisecond, func() bool {
		exports, err := testdomain.TryVirsh(s.t, "qemu-monitor-command", s.Name, `{"execute":"query-block-exports"}`)
		return err == nil && strings.Count(exports, `"type":"nbd"`) == len(s.Disks)
	})
	partial, _ := filepath.Glob(s.repo + "/*/.partial-*/*")
	if len(partial) > 0 {
		s.t.Fatalf("virtbackup was stopped too late: it has %v", partial)
	}
}

func continueStopped(p *testdomain.Process) { p.Signal(syscall.SIGCONT) }

// writeOn writes until it is told to stop, and counts.
func (s *site) writeOn(stop <-chan struct{}) (n int) {
	for ; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		if err := s.TryIO("vda", fmt.Sprintf("write -P %#x %d 100k", 1+n%250, (n*37%60)<<20)); err != nil {
			s.t.Error(err)
			return n
		}
	}
}

// await waits until it is so.
func await(t testing.TB, what string, pause time.Duration, so func() bool) {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(pause) {
		if so() {
			return
		}
	}
	t.Fatalf("no %s after a minute", what)
}
