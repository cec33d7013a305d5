package pull

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/localimage"
	"github.com/virtbackup/virtbackup/xml"
)

// A disk is identified by all its images.
func TestImagesOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Source{Options: source.Options{Log: slog.New(slog.DiscardHandler)}}
	all := s.imagesOf(xml.Disk{Source: path + ".absent", Backing: []string{path}, BackingFormats: []string{"raw"}}, 0)
	if want := []source.Image{{Source: path + ".absent"}, {Source: path, ID: localimage.Identify(path), Written: localimage.Written(path, "raw")}}; !reflect.DeepEqual(all, want) {
		t.Errorf("images %v", all)
	}
}
