package guest

import (
	"fmt"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// What is written while the job runs is not in the point, on no disk, and is
// all in the next one.
func TestInstant(t *testing.T) {
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20},
		testdomain.Disk{Target: "vdb", Size: 32<<20 + 512, Backing: "qcow2"}))
	s.IO("vda", "write -P 0x11 0 48M")
	s.IO("vdb", "write -P 0x12 0 8M")
	for _, kind := range []string{"full", "inc", "diff"} {
		backUpWhileWriting(s, kind)
		testsite.WantKinds(t, s.Points[len(s.Points)-1].Manifest, map[bool]string{true: "vda full, vdb full", false: "vda inc, vdb inc"}[kind == "full"])
	}
	s.BackUp(0, "inc")
	s.Check()
}

// backUpWhileWriting makes a point, stops virtbackup before it has read
// anything, overwrites, zeroes and discards what it is to read, lets it go on,
// and writes on until it ends.
func backUpWhileWriting(s *testsite.Site, kind string) {
	s.T.Helper()
	n := len(s.Points)
	s.IO("vda", fmt.Sprintf("write -P %#x 10M 20M", 0x20+n), "write -z 40M 100k", "discard 20M 1M")
	s.IO("vdb", fmt.Sprintf("write -P %#x 5M 3000", 0x30+n))
	truth := s.Truths()
	p := s.Program.Start(s.T, "--json", kind, s.Name)
	s.StopAtSocket(p)
	s.IO("vda", fmt.Sprintf("write -P %#x 0 16M", 0x40+n), "write -z 16M 3M", "write -z -u 20M 5M", "discard 28M 1M",
		fmt.Sprintf("write -P %#x 60M 1000", 0x50+n), "write -P 0x99 95M 1M", "write -P 0x98 40M 200k")
	s.IO("vdb", fmt.Sprintf("write -P %#x 0 33554944", 0x60+n), "write -z -u 1M 64k")
	testsite.Continue(p)
	stop, ended := make(chan struct{}), make(chan int)
	go func() { ended <- writeOn(s, stop) }()
	r := p.Wait()
	close(stop)
	s.T.Logf("%d writes while virtbackup read", <-ended)
	if r.Code != 0 {
		s.T.Fatalf("%s: exit %d", kind, r.Code)
	}
	s.Add(r, truth)
}

// writeOn writes until it is told to stop, and counts.
func writeOn(s *testsite.Site, stop <-chan struct{}) (n int) {
	for ; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		if err := s.TryIO("vda", fmt.Sprintf("write -P %#x %d 100k", 1+n%250, (n*37%60)<<20)); err != nil {
			s.T.Error(err)
			return n
		}
	}
}
