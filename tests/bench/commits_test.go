package bench

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// committing are the contestants of a guest that commits all the time. A copy reads as
// much as a full does, and leaves the checkpoints of the base alone.
var committing = []way{
	{"idle", commit((*stage).idle)},
	{"freeze-thaw", commit((*stage).freezeThaw)},
	{"inc-unquiesced", commit(func(s *stage) contestant { return s.increment("--quiesce", "no") })},
	{"inc-quiesced", commit(func(s *stage) contestant { return s.increment("--quiesce", "require") })},
	{"copy-unquiesced", commit((*stage).copyUnquiesced)},
	{"nbdcopy-raw", commit((*stage).nbdcopyRaw)},
}

// database makes the stage of a real guest whose disk holds data, and the program
// commits. The base is a full.
func database(t *testing.T, s settings, p place) *stage {
	t.Helper()
	size, data := 4*gib/s.shrink, gib/s.shrink
	image := newFileSystem(t, p.dir(t), size, data)
	st := &stage{settings: s, t: t, place: p, sources: []string{image}, truth: image,
		size: size, data: data, qemu: testdomain.TempDir(t), targets: testdomain.TempDir(t)}
	if err := os.Chmod(st.qemu, 0o777); err != nil {
		t.Fatal(err)
	}
	st.base = filepath.Join(st.targets, "base")
	st.Domain = testdomain.NewGuest(t, testdomain.Disk{Target: "vda", Source: image})
	ourBase(st)
	return st
}

// newFileSystem makes a qcow2 image with an ext4 of size bytes, a file of data bytes in
// it, and the program commits, for a guest's processor.
func newFileSystem(t *testing.T, dir string, size, data int64) string {
	t.Helper()
	files := testdomain.TempDir(t)
	build := exec.Command("go", "build", "-o", filepath.Join(files, "commits"), "./commits")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build commits: %v\n%s", err, out)
	}
	f, err := os.Create(filepath.Join(files, "data"))
	if err == nil {
		_, err = io.CopyN(f, random(), data)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	raw, image := filepath.Join(testdomain.TempDir(t), "vda.raw"), filepath.Join(dir, "vda.qcow2")
	testdomain.Tool(t, "mke2fs", "-q", "-t", "ext4", "-d", files, raw, strconv.FormatInt(size/kib, 10)+"k")
	testdomain.Tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
	return image
}

// commit lets the guest commit while a contestant works.
func commit(make func(*stage) contestant) func(*stage) contestant {
	return func(s *stage) contestant {
		c := make(s)
		work, after := c.work, c.after
		var took time.Duration
		c.work = func(r *turn) {
			s.startCommits()
			start := time.Now()
			work(r)
			took = time.Since(start)
			r.Gap = s.endCommits().Seconds()
			r.image = "" // it is no longer the same as the source
		}
		c.after = func(r *turn) {
			r.Wall = took.Seconds()
			if after != nil {
				after(r)
			}
		}
		return c
	}
}

// startCommits returns once the guest commits.
func (s *stage) startCommits() {
	s.t.Helper()
	s.Exec(`rm -f /tmp/commits; setsid /mnt/commits /mnt/log >/tmp/commits 2>&1 </dev/null & ` +
		`until grep -q ready /tmp/commits; do usleep 50000; done`)
	time.Sleep(settling)
}

// settling is how long the guest has for what starting the program has left to do.
const settling = 500 * time.Millisecond

// endCommits returns the largest gap between two commits.
func (s *stage) endCommits() time.Duration {
	s.t.Helper()
	out := s.Exec(`kill $(pidof commits); while pidof commits >/dev/null; do usleep 50000; done; cat /tmp/commits`)
	fields := strings.Fields(strings.TrimPrefix(out, "ready"))
	if len(fields) != 2 {
		s.t.Fatalf("the guest's commits: %s", out)
	}
	micros, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || fields[1] == "0" {
		s.t.Fatalf("the guest's commits: %s", out)
	}
	s.t.Logf("largest gap %s µs, %s commits", fields[0], fields[1])
	return time.Duration(micros) * time.Microsecond
}

// copyUnquiesced keeps the checkpoint of the base, unlike what else calls whole.
func (s *stage) copyUnquiesced() contestant {
	c := s.whole("copy1", "copy", "--quiesce", "no")
	c.after = nil
	return c
}

// freezeThaw is what every quiesced backup costs a guest at least. One virsh does both,
// as starting another one takes longer than they do.
func (s *stage) freezeThaw() contestant {
	return contestant{work: func(r *turn) {
		r.run("virsh", "-q", "-c", testdomain.URI, "domfsfreeze "+s.Name+"; domfsthaw "+s.Name)
	}}
}
