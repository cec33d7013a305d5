package testsite

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Crash writes, kills QEMU and starts the domain again.
func (s *Site) Crash(round int64) {
	s.T.Helper()
	s.WriteAll(round)
	s.Kill()
	s.Start()
}

// Redefine replaces text in the configuration of the domain.
func (s *Site) Redefine(old, new string) {
	s.T.Helper()
	file := filepath.Join(s.Dir, "redefined.xml")
	xml := testdomain.Virsh(s.T, "dumpxml", s.Name, "--inactive")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(xml, old, new)), 0o600); err != nil {
		s.T.Fatal(err)
	}
	testdomain.Virsh(s.T, "define", file)
}

// AbortJob ends the backup job of the domain as somebody else would, and waits
// until it is gone.
func (s *Site) AbortJob() {
	s.T.Helper()
	testdomain.Virsh(s.T, "domjobabort", s.Name)
	Await(s.T, "end of the job", 0, func() bool { return !s.HasJob() })
}

// DefineAnew lets libvirt forget the domain, shut off, with all its checkpoints,
// and defines it anew as it was.
func (s *Site) DefineAnew() {
	s.T.Helper()
	doc := testdomain.Virsh(s.T, "dumpxml", s.Name, "--inactive")
	testdomain.Virsh(s.T, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(s.Dir, "anew.xml")
	WriteFile(s.T, file, doc)
	testdomain.Virsh(s.T, "define", file)
	if left := s.Checkpoints(); len(left) != 0 {
		s.T.Fatalf("checkpoints are left: %q", left)
	}
}
