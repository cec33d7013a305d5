package view

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/diskmap"
	"github.com/virtbackup/virtbackup/extent"
	"github.com/virtbackup/virtbackup/manifest"
)

const mib = 1 << 20

// extents are those of a disk of 4 MiB and some bytes.
var extents = []diskmap.Extent{
	{Extent: extent.Extent{Offset: 0, Length: mib, Status: extent.Data}, Changed: true},
	{Extent: extent.Extent{Offset: mib, Length: 2 * mib, Status: extent.Data}},
	{Extent: extent.Extent{Offset: 3 * mib, Length: mib + 512, Status: extent.Zero}, Changed: true},
}

// mapOf is the map of a point with two disks, of which the second one is not chained onto another.
func mapOf() Map {
	m := Map{Point: manifest.Manifest{ID: "check2", Kind: manifest.KindInc, Parent: "check1", Domain: "vm \"1\"", Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)}}
	each := func(do func(diskmap.Extent) error) error {
		for _, e := range extents {
			if err := do(e); err != nil {
				return err
			}
		}
		return nil
	}
	survey := diskmap.Survey{Sums: diskmap.Sums{Data: 3 * mib, Changed: 2*mib + 512}, Bucket: mib, Buckets: []diskmap.Sums{
		{Data: mib, Changed: mib}, {Data: mib}, {Data: mib}, {Changed: mib}, {Changed: 512}}}
	m.Disks = append(m.Disks, MappedDisk{Disk: manifest.Disk{Target: "vda", VirtualSize: 4*mib + 512, Parent: "../check1/vda.qcow2"}, Survey: survey, Each: each})
	survey = diskmap.Survey{Sums: diskmap.Sums{Data: mib, Changed: mib}, Bucket: mib, Buckets: []diskmap.Sums{{}, {Data: mib, Changed: mib}}}
	m.Disks = append(m.Disks, MappedDisk{Disk: manifest.Disk{Target: "nvme0n1", VirtualSize: 2 * mib}, Survey: survey, Each: func(func(diskmap.Extent) error) error { return nil }})
	return m
}

func TestMapText(t *testing.T) {
	var b strings.Builder
	if err := mapOf().Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"check2: inc since check1 of domain vm \"1\", taken ", "\n  vda      #oo##\n", "\n  nvme0n1  .o\n", "# changed since check1\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	full := mapOf()
	full.Point.Parent, full.Disks = "", full.Disks[1:]
	b.Reset()
	if err := full.Text(&b); err != nil || strings.Contains(b.String(), "#") || strings.Contains(b.String(), "since") {
		t.Errorf("of a full: %v\n%s", err, &b)
	}
}

func TestMapJSON(t *testing.T) {
	var b strings.Builder
	if err := mapOf().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Domain, Point, Parent, Kind string
		Time                        time.Time
		Disks                       []struct {
			Target       string
			VirtualSize  int64 `json:"virtual_size"`
			DataBytes    int64 `json:"data_bytes"`
			ChangedBytes int64 `json:"changed_bytes"`
			Extents      []struct {
				Offset, Length int64
				Status         string
				Changed        bool
			}
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatalf("%v: %s", err, &b)
	}
	if got.Domain != "vm \"1\"" || got.Point != "check2" || got.Parent != "check1" || got.Kind != "inc" || !got.Time.Equal(mapOf().Point.Time) || len(got.Disks) != 2 || len(got.Disks[1].Extents) != 0 {
		t.Fatalf("%+v", got)
	}
	vda := got.Disks[0]
	if vda.Target != "vda" || vda.VirtualSize != 4*mib+512 || vda.DataBytes != 3*mib || vda.ChangedBytes != 2*mib+512 || len(vda.Extents) != len(extents) {
		t.Fatalf("%+v", vda)
	}
	for i, e := range vda.Extents {
		if want := extents[i]; e.Offset != want.Offset || e.Length != want.Length || e.Status != want.Status.String() || e.Changed != want.Changed {
			t.Errorf("%+v instead of %+v", e, want)
		}
	}
}

// What cannot be written, or read in the middle, is an error, and no half JSON is called whole.
func TestMapJSONErrors(t *testing.T) {
	boom := errors.New("boom")
	m := mapOf()
	m.Disks[1].Each = func(func(diskmap.Extent) error) error { return boom }
	if err := m.JSON(io.Discard); err != boom {
		t.Errorf("a disk that cannot be read: %v", err)
	}
	r, w := io.Pipe()
	r.CloseWithError(boom)
	if err := mapOf().JSON(w); err != boom {
		t.Errorf("an output that cannot be written: %v", err)
	}
}
