package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// changes are what happened to a disk since its checkpoint: in each of places
// equal parts of it, length bytes were written at a random place.
type changes struct {
	size, places, length int64 // bytes, number, bytes
}

// commands are those of qemu-io; pattern is a file with what is written.
func (c changes) commands(pattern string) []string {
	r := rand.New(rand.NewPCG(3, 3))
	part := c.size / c.places
	commands := make([]string, c.places)
	for i := range commands {
		at := part*int64(i) + r.Int64N((part-c.length)/c.length)*c.length
		commands[i] = fmt.Sprintf("write -q -s %s %d %d", pattern, at, c.length)
	}
	return commands
}

// newChanged starts a domain, lets base back it up, and changes its disk.
func newChanged(t *testing.T, s settings, p place, c changes, base func(*stage)) *stage {
	t.Helper()
	image := newImage(t, p.dir(t), c.size, 16*mib, random())
	st := newStage(t, s, p, image, c.size, c.places*c.length)
	st.changes, st.base = c, testdomain.TempDir(t)
	base(st)
	// QEMU must end properly, so that it writes the bitmap of the checkpoint.
	testdomain.Virsh(t, "destroy", st.Name, "--graceful")
	pattern := filepath.Join(st.qemu, "pattern")
	writePattern(t, pattern, c.length)
	runScript(t, image, c.commands(pattern))
	st.Start()
	return st
}

// writePattern makes a file of random bytes.
func writePattern(t *testing.T, file string, length int64) {
	t.Helper()
	data := make([]byte, length)
	_, _ = io.ReadFull(random(), data)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// ourBase makes check1.
func ourBase(s *stage) {
	s.t.Helper()
	r := &turn{t: s.t}
	s.newRepo(s.base)
	s.virtbackup(r, s.base, "full")
}

// virtnbdbackupInc makes incrementals of a domain of its own, because virtnbdbackup refuses
// a domain with checkpoints of other tools. Each turn works on a
// copy of the directory with the full.
func (s *stage) virtnbdbackupInc() contestant {
	twin := newChanged(s.t, s.settings, s.place, s.changes, func(s *stage) {
		s.t.Helper()
		testdomain.Tool(s.t, "virtnbdbackup", s.virtnbdbackupArgs("full", filepath.Join(s.base, "out"))...)
	})
	return contestant{
		before: func(r *turn) {
			testdomain.Tool(s.t, "cp", "-a", filepath.Join(twin.base, "out"), r.dir)
			twin.settle(twin.t, twin.sources)
		},
		work: func(r *turn) {
			out := filepath.Join(r.dir, "out")
			r.run("virtnbdbackup", twin.virtnbdbackupArgs("inc", out)...)
			r.sync(out)
		},
		after: func(*turn) { testdomain.Virsh(s.t, "checkpoint-delete", twin.Name, "virtnbdbackup.1") },
	}
}

// copyOnRead copies what a dirty bitmap names as QEMU's own documentation describes: qemu-img
// maps the bitmap, an empty image gets the export as its backing file, and the dirty ranges
// are read with copy-on-read. One qemu-io reads them all; finally the base becomes the
// backing file.
func (s *stage) copyOnRead() contestant {
	return s.overNBD("check1", contestant{work: func(r *turn) {
		r.image = filepath.Join(r.dir, "vda.qcow2")
		dirty := s.dirty(r)
		r.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", s.uri(), "-F", "raw", r.image)
		r.runWith(strings.NewReader(dirty), nil, "qemu-io", "-C", "-t", "none", "-f", "qcow2", r.image)
		r.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", s.point(s.base, "check1"), "-F", "qcow2", r.image)
		r.sync(r.image)
	}})
}

// dirty makes qemu-io's commands that read what has changed since the checkpoint.
func (s *stage) dirty(r *turn) string {
	s.t.Helper()
	export := "driver=nbd,export=vda,server.type=unix,server.path=" + s.socket() +
		",x-dirty-bitmap=qemu:dirty-bitmap:backup-vda"
	var extents []struct {
		Start, Length int64
		Data          bool // false: dirty (x-dirty-bitmap in QEMU's qapi/block-core.json)
	}
	if err := json.Unmarshal([]byte(r.run("qemu-img", "map", "--output=json", "--image-opts", export)), &extents); err != nil {
		s.t.Fatalf("qemu-img map: %v", err)
	}
	var commands strings.Builder
	for _, e := range extents {
		if !e.Data {
			fmt.Fprintf(&commands, "read -q %d %d\n", e.Start, e.Length)
		}
	}
	return commands.String()
}
