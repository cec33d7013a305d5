package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// stage is what the contestants of a scenario share: a paused domain with the
// source as its only disk, vda.
type stage struct {
	settings
	*testdomain.Domain
	t       *testing.T
	place   place
	sources []string  // files and directories that are read
	truth   string    // the disk's image
	size    int64     // of the disk, bytes
	data    int64     // bytes that a copy has to store
	qemu    string    // directory that QEMU may write to
	targets string    // directory on the disk for what the turns make
	base    string    // directory of the backup that a contestant builds upon
	changes changes   // since that
	devices []*device // of twoDisks
	volume  *volume   // of prunings
	once    bool      // the figures are the same in each round: one is enough
}

// newStage starts a domain on an image of size bytes, of which data bytes are to be copied.
func newStage(t *testing.T, s settings, p place, image string, size, data int64) *stage {
	t.Helper()
	st := &stage{settings: s, t: t, place: p, sources: []string{image}, truth: image,
		size: size, data: data, qemu: testdomain.TempDir(t), targets: testdomain.TempDir(t)}
	if err := os.Chmod(st.qemu, 0o777); err != nil {
		t.Fatal(err)
	}
	st.Domain = testdomain.New(t, testdomain.Disk{Target: "vda", Source: image})
	return st
}

// socket is where QEMU serves the disk while a job of begin runs.
func (s *stage) socket() string { return filepath.Join(s.qemu, "nbd") }

// uri names the disk to NBD clients.
func (s *stage) uri() string { return "nbd+unix:///vda?socket=" + s.socket() }

// begin begins a pull-mode backup job, as virtbackup does; since is the
// checkpoint of an incremental one, or "".
func (s *stage) begin(since string) {
	s.t.Helper()
	if since != "" {
		since = "<incremental>" + s.checkpoint(since) + "</incremental>"
	}
	file := filepath.Join(s.qemu, "backup.xml")
	xml := fmt.Sprintf(`<domainbackup mode='pull'>%s<server transport='unix' socket='%s'/><disks>`+
		`<disk name='vda' backup='yes' type='file'><scratch file='%s'/></disk></disks></domainbackup>`,
		since, s.socket(), filepath.Join(s.qemu, "scratch"))
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	testdomain.Virsh(s.t, "backup-begin", s.Name, file)
}

// end ends the job and waits until it is gone.
func (s *stage) end() {
	s.t.Helper()
	testdomain.Virsh(s.t, "domjobabort", s.Name)
	for start := time.Now(); s.HasJob(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			s.t.Fatalf("the backup job of %s does not end", s.Name)
		}
	}
}

// overNBD is a contestant that reads the disk, or what changed since a
// checkpoint, from a job that it finds begun.
func (s *stage) overNBD(since string, c contestant) contestant {
	before, after := c.before, c.after
	c.before = func(r *turn) {
		s.begin(since)
		if before != nil {
			before(r)
		}
	}
	c.after = func(r *turn) {
		if after != nil {
			after(r)
		}
		s.end()
	}
	return c
}

// checkpoint is what libvirt calls the checkpoint of a point.
func (s *stage) checkpoint(point string) string {
	s.t.Helper()
	for _, name := range s.Checkpoints() {
		if p, _, ok := manifest.ParseCheckpointName(name); ok && p == point {
			return name
		}
	}
	s.t.Fatalf("%s has no checkpoint of %s", s.Name, point)
	return ""
}

// forget deletes all checkpoints of the domain, so that each turn finds it new.
func (s *stage) forget(*turn) {
	s.t.Helper()
	for _, name := range s.Checkpoints() {
		testdomain.Virsh(s.t, "checkpoint-delete", s.Name, name)
	}
}
