package manifest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChainImages(t *testing.T) {
	disk := func(target, parent string) Disk {
		d := Disk{Target: target, Image: target + ".qcow2"}
		if parent != "" {
			d.Parent = ParentPath(parent, d.Image)
		}
		return d
	}
	points := []Manifest{
		{ID: "check1", Disks: []Disk{disk("vda", ""), disk("vdb", "")}},
		{ID: "check2", Disks: []Disk{disk("vda", "check1"), disk("vdb", "")}},
		{ID: "check4", Disks: []Disk{disk("vda", "check2"), disk("vdb", "check2")}},
		{ID: "diff5", Disks: []Disk{disk("vda", "check3")}}, // check3 is lost
	}
	for _, tt := range []struct{ id, target, want string }{
		{"check1", "vda", "check1/vda.qcow2"},
		{"check4", "vda", "check4/vda.qcow2 check2/vda.qcow2 check1/vda.qcow2"},
		{"check4", "vdb", "check4/vdb.qcow2 check2/vdb.qcow2"},
		{"check4", "vdc", ""},
		{"diff5", "vda", "diff5/vda.qcow2"},
		{"check9", "vda", ""},
	} {
		if got := strings.Join(ChainImages(points, tt.id, tt.target), " "); got != tt.want {
			t.Errorf("%s of %s: got %s, want %s", tt.target, tt.id, got, tt.want)
		}
	}
}

func TestJoinedLength(t *testing.T) {
	for want, images := range map[string][]string{
		"":                        nil,
		"/r/vm1/check1/vda.qcow2": {"check1/vda.qcow2"},
		"/r/vm1/check12/../check3/../check1/vda.qcow2": {"check12/vda.qcow2", "check3/vda.qcow2", "check1/vda.qcow2"},
		"/r/vm1/check2/an-image-of-a-long-name.qcow2":  {"check2/an-image-of-a-long-name.qcow2", "check1/a"},
	} {
		if got := JoinedLength("/r/vm1", images); got != len(want) {
			t.Errorf("%v: got %d, want %d as of %s", images, got, len(want), want)
		}
	}
}

// qemu-img opens a chain whose joined name has 4095 bytes, and none that is
// longer: the length that MaxJoined is taken from, and JoinedLength computes.
func TestJoinedLengthIsThatOfQEMU(t *testing.T) {
	const most = MaxJoined + 256
	template := emptyImage(t, "-u", "-F", "qcow2", "-b", "../check999/vda.qcow2")
	first := emptyImage(t)
	for _, tt := range []struct {
		length int
		opens  bool
	}{{MaxJoined, true}, {most, true}, {most + 1, false}, {most + 100, false}} {
		dir, images := fitChain(t, tt.length)
		for i, image := range images {
			content := first
			if i+1 < len(images) {
				content = bytes.Replace(template, []byte("check999"), []byte(filepath.Dir(images[i+1])), 1)
			}
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(image)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, image), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.Command("qemu-img", "convert", "-O", "raw", filepath.Join(dir, images[0]), filepath.Join(t.TempDir(), "raw")).CombinedOutput()
		if (err == nil) != tt.opens {
			t.Errorf("a joined name of %d bytes, of %d images: %v, want it to open: %v\n%.300s", tt.length, len(images), err, tt.opens, out)
		}
		if !tt.opens && !strings.Contains(string(out), "File name too long") {
			t.Errorf("a joined name of %d bytes: qemu-img does not say that the name is too long:\n%.300s", tt.length, out)
		}
	}
}

// emptyImage is the content of an image that qemu-img makes.
func emptyImage(t *testing.T, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "template")
	if out, err := exec.Command("qemu-img", slices.Concat([]string{"create", "-q", "-f", "qcow2"}, args, []string{path, "64k"})...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// fitChain names a directory and images, the newest first, whose joined name has
// that length.
func fitChain(t *testing.T, length int) (dir string, images []string) {
	t.Helper()
	dir = t.TempDir()
	for n := 100; ; n++ {
		next := slices.Insert(slices.Clone(images), 0, fmt.Sprintf("check%d/vda.qcow2", n))
		if JoinedLength(dir+"/x", next) > length {
			break
		}
		images = next
	}
	dir = filepath.Join(dir, strings.Repeat("x", 1+length-JoinedLength(dir+"/x", images)))
	if got := JoinedLength(dir, images); got != length {
		t.Fatalf("the joined name has %d bytes, want %d", got, length)
	}
	return dir, images
}

func TestChain(t *testing.T) {
	points := []Manifest{{ID: "check1"}, {ID: "check2", Parent: "check1"}, {ID: "check4", Parent: "check3"}, {ID: "check5", Parent: "check2"}}
	for i, want := range []string{"check1", "check2 check1", "check4", "check5 check2 check1"} {
		got := ""
		for _, m := range Chain(points, points[i]) {
			got += " " + m.ID
		}
		if got != " "+want {
			t.Errorf("of %s: got%s, want %s", points[i].ID, got, want)
		}
	}
}
