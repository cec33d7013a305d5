package instant

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/virtbackup/virtbackup/keep"
	"github.com/virtbackup/virtbackup/serve"
)

// Only what could not be read is damage, each line once, and only when it is complete.
func TestDamageInTheLog(t *testing.T) {
	s := &server{pin: keep.Pin{Runs: &keep.Runs{Socket: filepath.Join(t.TempDir(), "sock")}}}
	if lines := s.damage(); lines != nil {
		t.Errorf("without a log: %q", lines)
	}
	f, err := os.Create(s.log())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lost := serve.FailurePrefix + "vda: 512 bytes at offset 0: damaged"
	for _, step := range []struct {
		text string
		want []string
	}{
		{"warning: hash list of vda: read wrong once\n", nil},
		{"warning: " + lost, nil},
		{"\nerror: ended by signal: terminated\n", []string{lost}},
		{"error: " + lost + " 2\n", []string{lost + " 2"}},
		{"", nil},
	} {
		if _, err := f.WriteString(step.text); err != nil {
			t.Fatal(err)
		}
		if got := s.damage(); !slices.Equal(got, step.want) {
			t.Errorf("after %q: %q, want %q", step.text, got, step.want)
		}
	}
}

// A pin that somebody has made up names nothing outside of its directory.
func TestFilesStayInTheDirectory(t *testing.T) {
	r := &run{pin: keep.Pin{Runs: &keep.Runs{Dir: "/srv/vm", Files: []string{"vda.qcow2", "../x", "..", ".", "", "/etc/passwd", "a/b"}}}}
	if got := r.files(); !slices.Equal(got, []string{"/srv/vm/vda.qcow2"}) {
		t.Errorf("files %q", got)
	}
}
