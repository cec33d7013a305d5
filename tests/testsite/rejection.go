package testsite

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// Rejection is how a run must end that cannot be done.
type Rejection struct {
	Code        int
	Error, Hint string // what the error and the hint have to say
}

// Reject is a Rejection with this exit status, and with what the error and the hint have to say.
func Reject(code int, message, hint string) Rejection {
	return Rejection{Code: code, Error: message, Hint: hint}
}

// Rejects runs what must fail, with one clear error and a hint, and change
// nothing; dirs are further directories that it must leave alone.
func (s *Site) Rejects(want Rejection, args []string, dirs ...string) testdomain.Result {
	s.T.Helper()
	before := s.Everything(dirs)
	r := s.Program.Must(s.T, []int{want.Code}, args...)
	s.WantRejected(r, want)
	if after := s.Everything(dirs); after != before {
		s.T.Errorf("it has changed something: before\n%s\nafter\n%s", before, after)
	}
	return r
}

// WantRejected checks that a run has printed nothing but one error with one hint.
func (s *Site) WantRejected(r testdomain.Result, want Rejection) {
	s.T.Helper()
	if r.Stdout != "" {
		s.T.Errorf("standard output: %s", r.Stdout)
	}
	message, hint, _ := strings.Cut(r.Stderr, "\nhint: ")
	if lines := "\n" + r.Stderr; strings.Count(lines, "\nerror: ") != 1 || strings.Count(lines, "\nhint: ") != 1 {
		s.T.Error("not one error with one hint")
	}
	_, message, _ = strings.Cut("\n"+message, "\nerror: ")
	if !strings.Contains(message, want.Error) || !strings.Contains(hint, want.Hint) {
		s.T.Errorf("it does not say %q, hint %q", want.Error, want.Hint)
	}
}

// Everything describes everything that a failed run must not change, sizes of files included.
func (s *Site) Everything(dirs []string) string {
	s.T.Helper()
	text := s.Footprint()
	for _, dir := range append([]string{s.Repo}, dirs...) {
		text += "\n" + dir + ":" + Listing(s.T, dir)
	}
	return text
}

// notChanges are files of a domain that a refused run may leave: a note about lost checkpoints,
// which were lost before, and the lock of those who read.
var notChanges = []string{".mark-lost", "readers"}

// Listing names every file below dir with its size, except that of a lock file, whose content
// only says who holds it.
func Listing(t *testing.T, dir string) string {
	t.Helper()
	text := ""
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(notChanges, e.Name()) {
			return nil
		}
		info, err := e.Info()
		if err == nil && !e.IsDir() && e.Name() != "lock" {
			text += fmt.Sprintf(" %s(%d)", path, info.Size())
		} else {
			text += " " + path
		}
		return err
	})
	if os.IsNotExist(err) {
		return " absent"
	}
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Refused runs what must fail with the exit status code, say the words on
// standard error, and change nothing.
func (s *Site) Refused(code int, words string, args ...string) {
	s.T.Helper()
	before := s.Footprint()
	r := s.Program.Must(s.T, []int{code}, args...)
	if !strings.Contains(r.Stderr, words) {
		s.T.Errorf("the error does not say %q", words)
	}
	if after := s.Footprint(); after != before {
		s.T.Errorf("it has changed something: before\n%s\nafter\n%s", before, after)
	}
}

// Footprint describes everything that a refused run must not change.
func (s *Site) Footprint() string {
	s.T.Helper()
	files, err := filepath.Glob(s.Repo + "/*/*")
	if err != nil {
		s.T.Fatal(err)
	}
	hidden, _ := filepath.Glob(s.Repo + "/*/.*")
	files = slices.DeleteFunc(append(files, hidden...), func(f string) bool {
		return filepath.Base(f) == "lock" || slices.Contains(notChanges, filepath.Base(f))
	})
	run, _ := filepath.Glob(fmt.Sprintf("/var/lib/libvirt/qemu/virtbackup/*%.8s*", s.UUID))
	return fmt.Sprintf("files %v\ncheckpoints %v\njob %v\nrun files %v\n%s", files, s.Checkpoints(), s.HasJob(), run, s.State())
}
