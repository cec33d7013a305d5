package shutoff

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/xml"
)

// An image that is not there, or is none, is named, with a hint; so is qemu-img.
func TestUnusable(t *testing.T) {
	d, l := newDomain(t)
	dir := t.TempDir()
	absent, empty, text := filepath.Join(dir, "absent"), filepath.Join(dir, "empty"), filepath.Join(dir, "text")
	must(t, os.WriteFile(empty, nil, 0o600))
	must(t, os.WriteFile(text, []byte("not an image\n"), 0o600))
	for path, want := range map[string]string{
		absent: "disk vda of domain vm1: its image " + absent + " is missing",
		empty:  "disk vda of domain vm1: its image " + empty + " is no qcow2 image",
		text:   "disk vda of domain vm1: its image " + text + " is no qcow2 image",
	} {
		_, err := Images(t.Context(), d, xml.Disk{Target: "vda", SourceType: "file", Source: path, Format: "qcow2"}, false)
		var unusable *UnusableError
		if !errors.As(err, &unusable) || err.Error() != want || !strings.Contains(fail.HintOf(err), "--exclude vda") {
			t.Errorf("%s: got %v, hint %q", filepath.Base(path), err, fail.HintOf(err))
		}
	}
	t.Setenv("PATH", dir)
	if _, err := Images(t.Context(), d, xml.Disk{Target: "vda", SourceType: "file", Source: l.vda, Format: "qcow2"}, false); !strings.Contains(fail.HintOf(err), "qemu-utils") {
		t.Errorf("without qemu-img: got %v, hint %q", err, fail.HintOf(err))
	}
}
