package pull

import (
	"os"
	"path/filepath"
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
	all := imagesOf(xml.Disk{Source: path + ".absent", Backing: []string{path}})
	if len(all) != 2 || all[0] != (source.Image{Source: path + ".absent"}) || all[1] != (source.Image{Source: path, ID: localimage.Identify(path)}) {
		t.Errorf("images %v", all)
	}
}
