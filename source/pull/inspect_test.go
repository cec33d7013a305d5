package pull

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// The images of a disk are known by their identities, the top one first.
func TestImagesOf(t *testing.T) {
	dir := t.TempDir()
	path, backing := filepath.Join(dir, "disk"), filepath.Join(dir, "backing")
	for _, p := range []string{path, backing} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := imagesOf(xml.Disk{Source: path, Backing: []string{backing}})
	if len(all) != 2 || all[0].Source != path || all[1] != (source.Image{Source: backing, ID: source.Identify(backing)}) || all[1].ID == "" {
		t.Errorf("images %v", all)
	}
}
