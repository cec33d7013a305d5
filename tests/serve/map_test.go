package serve

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// mappedDisk is a disk as virtbackup map --json has it.
type mappedDisk struct {
	Target       string
	VirtualSize  int64 `json:"virtual_size"`
	Parent       string
	DataBytes    int64 `json:"data_bytes"`
	ChangedBytes int64 `json:"changed_bytes"`
	Extents      []struct {
		Offset, Length int64
		Status         string
		Changed        bool
	}
}

// What map says of each point is true of what the disks were: its zeros are zeros, and between its
// changes nothing differs from the point before.
func mapOfEveryPoint(t *testing.T, s *testsite.Site) {
	t.Helper()
	for i, p := range s.Points {
		var said struct {
			Point, Parent string
			Disks         []mappedDisk
		}
		r := s.Program.Run(t, "--json", "map", s.Name+"@"+p.ID)
		if err := json.Unmarshal([]byte(r.Stdout), &said); err != nil || r.Code != 0 || said.Point != p.ID || said.Parent != p.Parent || len(said.Disks) != len(p.Disks) {
			t.Fatalf("exit %d, %v: %s", r.Code, err, r.Stdout)
		}
		for _, d := range said.Disks {
			before := ""
			if i > 0 {
				before = readFile(t, s.Points[i-1].Truth[d.Target])
			}
			d.want(t, readFile(t, p.Truth[d.Target]), before)
		}
		text := s.Program.Run(t, "map", s.Name+"@"+p.ID).Stdout
		testsite.WantLine(t, text, `^  vda  [.o#]{1,64}$`)
		testsite.WantLine(t, text, `^  vdb  [.o#]{1,64}$`)
	}
}

// want compares a map with what the disk is, and was before; "" where there is no point before.
func (d mappedDisk) want(t *testing.T, truth, before string) {
	t.Helper()
	end, data, changed := int64(0), int64(0), int64(0)
	for i, e := range d.Extents {
		if e.Offset != end || e.Length <= 0 || e.Offset+e.Length > d.VirtualSize {
			t.Fatalf("%s: extent %d is %+v, the one before ends at %d", d.Target, i, e, end)
		}
		if i > 0 && e.Status == d.Extents[i-1].Status && e.Changed == d.Extents[i-1].Changed {
			t.Errorf("%s: extents %d and %d are one", d.Target, i-1, i)
		}
		end = e.Offset + e.Length
		switch is := truth[e.Offset:end]; {
		case e.Status == "data":
			data += e.Length
		case e.Status != "zero" || strings.Trim(is, "\x00") != "":
			t.Errorf("%s: %d bytes at offset %d are %q, and no zeros", d.Target, e.Length, e.Offset, e.Status)
		}
		if e.Changed {
			changed += e.Length
		} else if before != "" && truth[e.Offset:end] != before[e.Offset:end] {
			t.Errorf("%s: something in %d bytes at offset %d has changed", d.Target, e.Length, e.Offset)
		}
	}
	if end != d.VirtualSize || int64(len(truth)) != end || data != d.DataBytes || changed != d.ChangedBytes || data == 0 || data == end {
		t.Errorf("%s: %d bytes, %d of them data and %d changed: %d, %d, %d in all", d.Target, end, data, changed, d.VirtualSize, d.DataBytes, d.ChangedBytes)
	}
	if before != "" && (changed == 0 || changed > end/2) {
		t.Errorf("%s: %d of %d bytes are called changed", d.Target, changed, end)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
