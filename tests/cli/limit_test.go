package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// flow is how many bytes a run had written by a time.
type flow struct {
	at      time.Time
	written int64
}

// --limit-rate holds over all disks together, within 5 %, at any moment since
// the job began: what is written was read before. A machine that is too slow for
// the rate only makes the test easier. At 1 MiB/s a single buffer that is read
// ahead of its turn is too much.
func TestLimitRate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ rate, each int64 }{{1 << 20, 2 << 20}, {24 << 20, 56 << 20}} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) { limitedTo(t, c.rate, c.each) })
	}
}

// limitedTo copies two disks with each bytes of data.
func limitedTo(t *testing.T, rate, each int64) {
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}, testdomain.Disk{Target: "vdb", Size: 64 << 20}))
	for _, target := range []string{"vda", "vdb"} {
		s.IO(target, fmt.Sprintf("write -s %s 0 %d", s.Noise(), each))
	}
	truth := s.Truths()
	p := s.Program.Start(t, "--json", "full", s.Name, "--limit-rate", strconv.FormatInt(rate, 10))
	began, flows, r := follow(s, p)
	s.Add(r, truth)
	if len(flows) == 0 || flows[len(flows)-1].written < 2*each {
		t.Fatalf("%d bytes of data, and these were seen to be written: %v", 2*each, flows)
	}
	others := flows[len(flows)-1].written - 2*each // tables and hashes: so much may be among what is written
	ended := false
	for _, f := range flows {
		data, took := f.written-others, f.at.Sub(began).Seconds()
		share := float64(data) / float64(rate) / took
		if took > 1 && share > 1.05 {
			t.Errorf("%.3f s after its beginning the copy has at least %d bytes: %.1f %% of the rate", took, data, share*100)
		}
		if !ended && data > 2*each*99/100 {
			ended = true
			t.Logf("%d bytes in %.3f s: %.1f %% of the rate", data, took, share*100)
		}
	}
	s.Check()
}

// follow watches a run until it ends: what it has written since the copy began,
// as the kernel counts it (wchar, see proc(5)), each time that this has grown,
// and in the end.
// began is the last moment before QEMU served the disks.
func follow(s *testsite.Site, p *testdomain.Process) (began time.Time, flows []flow, r testdomain.Result) {
	s.T.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.AwaitEnd()
	}()
	sockets := fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*-%.8s-*.sock", s.UUID)
	var before int64
	for copying := false; ; {
		now, written := time.Now(), writtenBy(p)
		if found, _ := filepath.Glob(sockets); len(found) == 0 && !copying {
			began, before = now, written
		} else if copying = true; len(flows) == 0 || written-before > flows[len(flows)-1].written {
			// The time is read after the count, so that no rate comes out too high.
			flows = append(flows, flow{time.Now(), written - before})
		}
		select {
		case <-ended:
			// Its count can still be read: it has not been waited for yet.
			flows = append(flows, flow{time.Now(), writtenBy(p) - before})
			return began, flows, p.Wait()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// writtenBy is how many bytes a process has written, 0 once it has been waited for.
func writtenBy(p *testdomain.Process) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.Cmd.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
			return n
		}
	}
	return 0
}
