package restore

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// An overlay has the size of the disk, no data, and the backing file that it is given; the data of the
// point is not read. What is zeros in the point is zeros in the overlay.
func TestOverlay(t *testing.T) {
	const size = 1<<30 + 512 // the second L2 table is that of a hole
	repo, _ := chainOf(t, 2, size, func(link int) []int64 { return []int64{0, int64(link+2) * cluster} })
	for _, id := range []string{"check1", "check2"} {
		overwriteData(t, filepath.Join(repo.PointDir("vm1", id), "vda.qcow2"))
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
	if info.Size != size || info.Backing != backing || info.Format != "raw" || info.Actual > 1<<20 {
		t.Errorf("the overlay is %+v", info)
	}
	data := map[int64]bool{0: true, 2 * cluster: true, 3 * cluster: true}
	without := `json:{"driver": "qcow2", "file": {"driver": "file", "filename": "` + result.Disks[0].Image + `"}, "backing": null}`
	out, err = exec.Command("qemu-img", "map", "--output=json", without).Output()
	must(t, err)
	var extents []struct {
		Start, Length       int64
		Data, Zero, Present bool
	}
	must(t, json.Unmarshal(out, &extents))
	end := int64(0)
	for _, e := range extents {
		if e.Start != end || e.Data || e.Present == data[e.Start] {
			t.Errorf("in the overlay: %+v", e)
		}
		end += e.Length
	}
	if end != size {
		t.Errorf("the map of the overlay ends at %d", end)
	}
	if out, err := exec.Command("qemu-img", "check", without).CombinedOutput(); err != nil {
		t.Errorf("qemu-img check: %v: %s", err, out)
	}
}

// overwriteData overwrites the clusters of an image that have data of the disk.
func overwriteData(t *testing.T, image string) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	whole, err := os.ReadFile(image)
	must(t, err)
	found := 0
	for at := 0; at+cluster <= len(whole); at += cluster {
		if whole[at+3] == 'x' && whole[at+7] == 'x' { // chainOf's content
			_, err := f.WriteAt(make([]byte, cluster), int64(at))
			must(t, err)
			found++
		}
	}
	if found == 0 {
		t.Fatalf("%s has no data", image)
	}
}
