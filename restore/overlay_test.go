package restore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// An overlay has the size of the disk, no data, and the backing file that it is given; the data of the
// point is not read.
func TestOverlay(t *testing.T) {
	repo, _ := chainOf(t, 2, 3<<20+512, func(int) []int64 { return []int64{0} })
	for _, id := range []string{"check1", "check2"} {
		image := filepath.Join(repo.PointDir("vm1", id), "vda.qcow2")
		info, err := os.Stat(image)
		must(t, err)
		f, err := os.OpenFile(image, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(make([]byte, info.Size()-64<<10), 64<<10) // all but the header
		must(t, err)
		must(t, f.Close())
	}
	dir := filepath.Join(t.TempDir(), "new")
	const backing = "nbd+unix:///vda?socket=/run/x.sock"
	result, err := Run(t.Context(), repo, Request{Domain: "vm1", Dir: dir, Overlay: func(target string) string { return "nbd+unix:///" + target + "?socket=/run/x.sock" }})
	must(t, err)
	out, err := exec.Command("qemu-img", "info", "--output=json", result.Disks[0].Image).Output()
	must(t, err)
	var info struct {
		Size    int64  `json:"virtual-size"`
		Actual  int64  `json:"actual-size"`
		Backing string `json:"backing-filename"`
		Format  string `json:"backing-filename-format"`
	}
	must(t, json.Unmarshal(out, &info))
	if info.Size != 3<<20+512 || info.Backing != backing || info.Format != "raw" || info.Actual > 1<<20 {
		t.Errorf("the overlay is %+v", info)
	}
}
