package plan

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

const gib = 1 << 30

// state is a domain with the disks vda and vdb, 1 GiB each, and no points.
func state(points ...manifest.Manifest) State {
	s := State{Sizes: map[string]int64{}, Allocated: map[string]int64{}, Images: map[string][]source.Image{}, Points: points}
	s.add(qcow2Disk("vda"), gib)
	s.add(qcow2Disk("vdb"), gib)
	s.Next, s.Identity = len(points)+1, identityOf("next")
	for _, m := range points {
		if m.Checkpoint == "" {
			continue
		}
		c := checkpoint.Checkpoint{Checkpoint: xml.Checkpoint{Name: m.Checkpoint}, Ours: true, Sealed: true,
			Instant: instants.Instant{Point: m.ID, Identity: m.Identity, Checkpoint: true}}
		for _, d := range m.Disks {
			c.Disks = append(c.Disks, xml.CheckpointDisk{Target: d.Target, Bitmap: m.Checkpoint, Size: 1 << 20})
		}
		s.Checkpoints = append(s.Checkpoints, c)
	}
	return s
}

// identityOf is 16 hex digits that are always the same for a name.
func identityOf(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:16] }

func (s *State) checkpoint(point string) *checkpoint.Checkpoint {
	return &s.Checkpoints[slices.IndexFunc(s.Checkpoints, func(c checkpoint.Checkpoint) bool { return c.Instant.Point == point })]
}

func (s *State) add(d xml.Disk, size int64) {
	s.Disks = append(s.Disks, d)
	s.Sizes[d.Target], s.Allocated[d.Target] = size, size/2
}

// bitmap is what the checkpoint of a point records of a disk.
func (s *State) bitmap(point, target string) *xml.CheckpointDisk {
	c := s.checkpoint(point)
	d := slices.IndexFunc(c.Disks, func(d xml.CheckpointDisk) bool { return d.Target == target })
	return &c.Disks[d]
}

// base is what a point says of a disk.
func (s *State) base(id, target string) *manifest.Disk {
	m := slices.IndexFunc(s.Points, func(m manifest.Manifest) bool { return m.ID == id })
	d := slices.IndexFunc(s.Points[m].Disks, func(d manifest.Disk) bool { return d.Target == target })
	return &s.Points[m].Disks[d]
}

// lose makes libvirt forget the checkpoint of a point.
func (s *State) lose(point string) {
	s.Checkpoints = slices.DeleteFunc(s.Checkpoints, func(c checkpoint.Checkpoint) bool { return c.Instant.Point == point })
}

func (s *State) remove(target string) {
	s.Disks = slices.DeleteFunc(s.Disks, func(d xml.Disk) bool { return d.Target == target })
}

func (s *State) format(target, format string) {
	s.Disks[slices.IndexFunc(s.Disks, func(d xml.Disk) bool { return d.Target == target })].Format = format
}

func qcow2Disk(target string) xml.Disk {
	return xml.Disk{Target: target, Device: "disk", Bus: "virtio", Source: "/" + target, SourceType: "file", Format: "qcow2"}
}

// sealed is a point of vda and vdb.
func sealed(id string, kind manifest.Kind) manifest.Manifest {
	m := manifest.Manifest{ID: id, Kind: kind, Identity: identityOf(id)}
	if m.IsBase() {
		m.Checkpoint = manifest.CheckpointName(id, m.Identity)
	}
	for _, target := range []string{"vda", "vdb"} {
		m.Disks = append(m.Disks, manifest.Disk{Target: target, Image: target + ".qcow2", VirtualSize: gib})
	}
	return m
}

const (
	full     = manifest.KindFull
	inc      = manifest.KindInc
	diff     = manifest.KindDiff
	kindCopy = manifest.KindCopy
)

// history is a full, two incs, a diff since the full, and a copy.
func history() State {
	return state(sealed("check1", full), sealed("check2", inc), sealed("check3", inc), sealed("diff4", diff), sealed("copy5", kindCopy))
}

// describe writes a plan as "check2 inc since check1: vda inc, vdb full".
func describe(p Plan) string {
	text := p.ID + " " + string(p.Kind)
	if p.Base != nil {
		text += " since " + p.Base.ID
	}
	for i, d := range p.Disks {
		kind := full
		switch {
		case d.Incremental:
			kind = inc
		case d.Rescan:
			kind = "rescan"
		}
		text += fmt.Sprintf("%s %s %s", []string{":", ","}[min(i, 1)], d.Target, kind)
		if !d.Bitmap {
			text += " (no bitmap)"
		}
	}
	return text
}

func TestPlan(t *testing.T) {
	tests := []struct {
		name    string
		request Wanted
		state   State
		change  func(*State)
		want    string
		said    string // in a note, warning or the choice of auto
	}{
		{"first full", Wanted{Kind: full}, state(), nil, "check1 full: vda full, vdb full", ""},
		{"next full", Wanted{Kind: full}, history(), nil, "check6 full: vda full, vdb full", ""},
		{"copy", Wanted{Kind: kindCopy}, history(), nil, "copy6 copy: vda full (no bitmap), vdb full (no bitmap)", ""},
		{"inc", Wanted{Kind: inc}, history(), nil, "check6 inc since check3: vda inc, vdb inc", ""},
		{"inc since", Wanted{Kind: inc, Since: "check1"}, history(), nil, "check6 inc since check1: vda inc, vdb inc", ""},
		{"inc where the newest checkpoint is gone", Wanted{Kind: inc}, history(), func(s *State) { s.lose("check3") },
			"check6 inc since check2: vda inc, vdb inc", ""},
		{"diff", Wanted{Kind: diff}, history(), nil, "diff6 diff since check1: vda inc (no bitmap), vdb inc (no bitmap)", ""},
		{"diff since", Wanted{Kind: diff, Since: "check2"}, history(), nil, "diff6 diff since check2: vda inc (no bitmap), vdb inc (no bitmap)", ""},
		{"one disk", Wanted{Kind: inc, Disks: []string{"vdb"}}, history(), nil, "check6 inc since check3: vdb inc", ""},
		{"all but one", Wanted{Kind: inc, Exclude: []string{"vdb"}}, history(), nil, "check6 inc since check3: vda inc", ""},
		{"raw disk in a full", Wanted{Kind: full}, state(), func(s *State) { s.format("vdb", "raw") },
			"check1 full: vda full, vdb full (no bitmap)", "an inc will read all of disk vdb, and store what differs: a raw image has no bitmaps"},
		{"raw disk in another full", Wanted{Kind: full}, history(), func(s *State) { s.format("vdb", "raw") },
			"check6 full: vda full, vdb full (no bitmap)", ""},
		{"raw disk in a copy", Wanted{Kind: kindCopy}, state(), func(s *State) { s.format("vdb", "raw") },
			"copy1 copy: vda full (no bitmap), vdb full (no bitmap)", ""},
		{"raw disk in an inc", Wanted{Kind: inc}, history(), func(s *State) { s.format("vdb", "raw") },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", ""},
		{"raw disk in a diff", Wanted{Kind: diff}, history(), func(s *State) { s.format("vdb", "raw") },
			"diff6 diff since check1: vda inc (no bitmap), vdb rescan (no bitmap)", ""},
		{"new raw disk", Wanted{Kind: inc}, history(), func(s *State) { s.add(qcow2Disk("vdc"), gib); s.format("vdc", "raw") },
			"check6 inc since check3: vda inc, vdb inc, vdc full (no bitmap)", "disk vdc is copied in full: point check3 does not have this disk"},
		{"shrunk raw disk", Wanted{Kind: inc}, history(), func(s *State) { s.format("vdb", "raw"); s.Sizes["vdb"] = gib / 2 },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", ""},
		{"shareable disk", Wanted{Kind: inc}, history(), func(s *State) { s.Disks[1].Shareable = true },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", ""},
		{"raw disk, in full", Wanted{Kind: inc, Fallback: FallbackFull}, history(), func(s *State) { s.format("vdb", "raw") },
			"check6 inc since check3: vda inc, vdb full (no bitmap)", ""},
		{"raw disks only", Wanted{Kind: inc}, history(), func(s *State) {
			s.format("vda", "raw")
			s.format("vdb", "raw")
			s.lose("check3")
			s.Points[2].Checkpoint = ""
		},
			"check6 inc since check3: vda rescan (no bitmap), vdb rescan (no bitmap)", ""},
		{"raw disks only, diff", Wanted{Kind: diff}, history(), func(s *State) { s.format("vda", "raw"); s.format("vdb", "raw") },
			"diff6 diff since check1: vda rescan (no bitmap), vdb rescan (no bitmap)", ""},
		{"raw disks only, since", Wanted{Kind: inc, Since: "check2"}, history(), func(s *State) { s.format("vda", "raw"); s.format("vdb", "raw"); s.lose("check2") },
			"check6 inc since check2: vda rescan (no bitmap), vdb rescan (no bitmap)", ""},
		{"the raw disk alone", Wanted{Kind: inc, Disks: []string{"vdb"}}, history(), func(s *State) { s.format("vdb", "raw"); s.lose("check3"); s.Points[2].Checkpoint = "" },
			"check6 inc since check3: vdb rescan (no bitmap)", ""},
		{"qcow2 version 2", Wanted{Kind: inc}, history(), func(s *State) { s.format("vdb", "qcow2 v2") },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", ""},
		{"new disk", Wanted{Kind: inc}, history(), func(s *State) { s.add(qcow2Disk("vdc"), gib) },
			"check6 inc since check3: vda inc, vdb inc, vdc full", "disk vdc is copied in full: point check3 does not have this disk"},
		{"disk gone", Wanted{Kind: inc}, history(), func(s *State) { s.remove("vdb") },
			"check6 inc since check3: vda inc", "disk vdb of point check3 is gone"},
		{"broken bitmap", Wanted{Kind: inc}, history(), func(s *State) { s.bitmap("check3", "vda").Size = -1 },
			"check6 inc since check3: vda rescan, vdb inc", "disk vda is read in full and compared with point check3: the bitmap of checkpoint check3 is missing or broken"},
		{"disk without a bitmap", Wanted{Kind: inc}, history(), func(s *State) { s.bitmap("check3", "vda").Bitmap = "" },
			"check6 inc since check3: vda rescan, vdb inc", "checkpoint check3 does not cover this disk"},
		{"grown", Wanted{Kind: inc}, history(), func(s *State) { s.Sizes["vda"] = 2 * gib }, "check6 inc since check3: vda inc, vdb inc", ""},
		{"shrunk", Wanted{Kind: inc}, history(), func(s *State) { s.Sizes["vda"] = gib / 2 },
			"check6 inc since check3: vda rescan, vdb inc", "disk vda is read in full and compared with point check3: the disk has shrunk from 1073741824 to 536870912 bytes"},
		{"every bitmap broken", Wanted{Kind: inc}, history(), func(s *State) { s.bitmap("check3", "vda").Size, s.bitmap("check3", "vdb").Size = -1, -1 },
			"check6 inc since check3: vda rescan, vdb rescan", "disk vdb is read in full"},
		{"broken bitmap, in full", Wanted{Kind: inc, Fallback: FallbackFull}, history(), func(s *State) { s.bitmap("check3", "vda").Size = -1 },
			"check6 inc since check3: vda full, vdb inc", "disk vda is copied in full: the bitmap of checkpoint check3 is missing or broken"},
		{"new disk, no fallback", Wanted{Kind: inc, Fallback: FallbackFail}, history(), func(s *State) { s.add(qcow2Disk("vdc"), gib) },
			"check6 inc since check3: vda inc, vdb inc, vdc full", "point check3 does not have this disk"},
		{"raw disk, no fallback", Wanted{Kind: inc, Fallback: FallbackFail}, history(), func(s *State) { s.format("vdb", "raw") },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", ""},
		{"turned raw", Wanted{Kind: inc}, history(), func(s *State) { s.base("check3", "vdb").SourceFormat = "qcow2"; s.format("vdb", "raw") },
			"check6 inc since check3: vda inc, vdb rescan (no bitmap)", "disk vdb is raw now: a raw image has no bitmaps"},
		{"turned qcow2", Wanted{Kind: inc}, history(), func(s *State) { s.base("check3", "vdb").SourceFormat = "raw"; s.bitmap("check3", "vdb").Bitmap = "" },
			"check6 inc since check3: vda inc, vdb rescan", "checkpoint check3 does not cover this disk"},
		{"image at another place", Wanted{Kind: inc}, history(), func(s *State) {
			s.base("check3", "vda").Source = "/old"
			s.Images["vda"] = []source.Image{{Source: "/vda", ID: ""}}
		}, "check6 inc since check3: vda rescan, vdb inc", "its image was another one then (/old, now /vda)"},
		{"swapped images", Wanted{Kind: inc}, history(), func(s *State) {
			s.base("check3", "vda").Source, s.base("check3", "vdb").Source = "/vda", "/vdb"
			s.base("check3", "vda").SourceID, s.base("check3", "vdb").SourceID = "file:1", "file:2"
			s.Images["vda"], s.Images["vdb"] = []source.Image{{Source: "/vda", ID: "file:2"}}, []source.Image{{Source: "/vdb", ID: "file:1"}}
		}, "check6 inc since check3: vda rescan, vdb rescan", "its image /vda was replaced by another file since"},
		{"live snapshot", Wanted{Kind: inc}, history(), func(s *State) {
			s.base("check3", "vda").Source, s.base("check3", "vda").SourceID = "/vda", "file:1"
			s.Images["vda"] = []source.Image{{Source: "/new", ID: "file:3"}, {Source: "/other", ID: "file:2"}, {Source: "/vda", ID: "file:1"}}
		}, "check6 inc since check3: vda inc, vdb inc", ""},
		{"replaced backing file", Wanted{Kind: inc}, history(), func(s *State) {
			s.base("check3", "vda").SourceID, s.base("check3", "vda").SourceBackingIDs = "file:1", []string{"file:2"}
			s.base("check3", "vdb").SourceID, s.base("check3", "vdb").SourceBackingIDs = "file:4", []string{"file:2"}
			s.base("check3", "vda").Source, s.base("check3", "vdb").Source = "/vda", "/vdb"
			s.Images["vda"] = []source.Image{{Source: "/vda", ID: "file:1"}, {Source: "/b", ID: "file:3"}}
			s.Images["vdb"] = []source.Image{{Source: "/vdb", ID: "file:4"}, {Source: "/a", ID: "file:2"}}
		}, "check6 inc since check3: vda rescan, vdb inc", "its backing file /b is not the one of then"},
		{"inc since a point without checkpoint", Wanted{Kind: inc, Since: "check2"}, history(), func(s *State) { s.Points[1].Checkpoint = "" },
			"check6 inc since check2: vda rescan, vdb rescan", "point check2 has no checkpoint"},
		{"the checkpoint is gone", Wanted{Kind: inc, Since: "check2"}, history(), func(s *State) { s.lose("check2") },
			"check6 inc since check2: vda rescan, vdb rescan", "checkpoint check2 is gone from libvirt"},
		{"the checkpoint is somebody else's", Wanted{Kind: diff, Since: "check2"}, history(), func(s *State) { s.Checkpoints[1].Ours = false },
			"diff6 diff since check2: vda rescan (no bitmap), vdb rescan (no bitmap)", "this repository does not know its identity"},
		{"the checkpoint is of another identity", Wanted{Kind: inc}, history(), func(s *State) { s.checkpoint("check3").Instant.Identity = identityOf("other") },
			"check6 inc since check2: vda inc, vdb inc", ""},
		{"the checkpoint is retired", Wanted{Kind: inc}, history(), func(s *State) { s.checkpoint("check3").Instant.State = instants.Retired },
			"check6 inc since check2: vda inc, vdb inc", ""},
		{"since a retired checkpoint", Wanted{Kind: inc, Since: "check3"}, history(), func(s *State) { s.checkpoint("check3").Instant.State = instants.Retired },
			"check6 inc since check3: vda rescan, vdb rescan", "checkpoint check3 is to be deleted"},
		{"the point is of another identity", Wanted{Kind: inc, Since: "check3"}, history(), func(s *State) { s.Points[2].Identity = identityOf("other") },
			"check6 inc since check3: vda rescan, vdb rescan", "checkpoint check3 is of another instant"},
		{"points of format 1", Wanted{Kind: inc}, history(), func(s *State) {
			for i := range s.Points[:3] {
				s.Points[i].Identity, s.Points[i].Checkpoint = "", s.Points[i].ID
				s.Checkpoints[i].Name = s.Points[i].ID
			}
		}, "check6 inc since check3: vda rescan, vdb rescan", "made by a version that knew checkpoints by their names alone"},
		{"the list of identities is damaged", Wanted{Kind: inc}, history(), func(s *State) {
			s.Damage = errors.New("torn")
			for i := range s.Checkpoints {
				s.Checkpoints[i].Ours = false
			}
		}, "check6 inc since check3: vda rescan, vdb rescan", "it is unknown whether checkpoint check3 is ours: torn"},
		{"all checkpoints gone", Wanted{Kind: inc}, history(), func(s *State) { s.Checkpoints = nil },
			"check6 inc since check3: vda rescan, vdb rescan", "checkpoint check3 is gone from libvirt"},
		{"diff, all checkpoints gone", Wanted{Kind: diff}, history(), func(s *State) { s.Checkpoints = nil },
			"diff6 diff since check1: vda rescan (no bitmap), vdb rescan (no bitmap)", "checkpoint check1 is gone from libvirt"},
		{"a new disk, and all checkpoints gone", Wanted{Kind: inc}, history(), func(s *State) { s.Checkpoints = nil; s.add(qcow2Disk("vdc"), gib) },
			"check6 inc since check3: vda rescan, vdb rescan, vdc full", "disk vdc is copied in full: point check3 does not have this disk"},
		{"auto, first", Wanted{Kind: Auto}, state(), nil, "check1 full: vda full, vdb full", "full: the first point of this domain"},
		{"auto", Wanted{Kind: Auto}, history(), nil, "check6 inc since check3: vda inc, vdb inc", "inc: since check3"},
		{"auto without a checkpoint", Wanted{Kind: Auto}, history(), func(s *State) { s.Checkpoints = nil },
			"check6 inc since check3: vda rescan, vdb rescan", "inc: compared with check3, as no bitmap says what changed since"},
		{"auto without a checkpoint, in full", Wanted{Kind: Auto, Fallback: FallbackFull}, history(), func(s *State) { s.Checkpoints = nil },
			"check6 full: vda full, vdb full", "full: check3 is no usable base (vdb: checkpoint check3 is gone from libvirt (deleted, or older than those that --keep-checkpoints keeps))"},
		{"the checkpoint is gone, in full", Wanted{Kind: inc, Since: "check2", Fallback: FallbackFull}, history(), func(s *State) { s.lose("check2") },
			"check6 inc since check2: vda full, vdb full", "disk vda is copied in full: checkpoint check2 is gone from libvirt"},
		{"the checkpoint is somebody else's, in full", Wanted{Kind: inc, Since: "check2", Fallback: FallbackFull}, history(), func(s *State) { s.Checkpoints[1].Ours = false },
			"check6 inc since check2: vda full, vdb full", "disk vda is copied in full: checkpoint check2 has our marks"},
		{"no checkpoint of a full, in full", Wanted{Kind: diff, Fallback: FallbackFull}, history(), func(s *State) { s.lose("check1") },
			"diff6 diff since check1: vda full (no bitmap), vdb full (no bitmap)", "disk vda is copied in full: checkpoint check1 is gone from libvirt"},
		{"auto with one usable bitmap", Wanted{Kind: Auto}, history(), func(s *State) { s.bitmap("check3", "vda").Size = -1 },
			"check6 inc since check3: vda rescan, vdb inc", "inc: since check3"},
		{"auto without a usable bitmap", Wanted{Kind: Auto}, history(), func(s *State) { s.bitmap("check3", "vda").Size, s.bitmap("check3", "vdb").Size = -1, -1 },
			"check6 inc since check3: vda rescan, vdb rescan", "disk vdb is read in full and compared with point check3"},
		{"auto without a usable bitmap, in full", Wanted{Kind: Auto, Fallback: FallbackFull}, history(), func(s *State) { s.bitmap("check3", "vda").Size, s.bitmap("check3", "vdb").Size = -1, -1 },
			"check6 full: vda full, vdb full", "full: check3 is no usable base (vdb: the bitmap of checkpoint check3 is missing or broken)"},
		{"auto of raw disks", Wanted{Kind: Auto}, history(), func(s *State) { s.format("vda", "raw"); s.format("vdb", "raw") },
			"check6 inc since check3: vda rescan (no bitmap), vdb rescan (no bitmap)", "inc: compared with check3, as no bitmap says what changed since"},
		{"auto of raw disks, in full", Wanted{Kind: Auto, Fallback: FallbackFull}, history(), func(s *State) { s.format("vda", "raw"); s.format("vdb", "raw") },
			"check6 full: vda full (no bitmap), vdb full (no bitmap)", "full: check3 is no usable base (vdb: a raw image"},
		{"auto after copies only", Wanted{Kind: Auto}, state(sealed("copy1", kindCopy)), nil, "check2 full: vda full, vdb full", "full: domain vm1 has no full or inc of these disks to start from"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(&tt.state)
			}
			tt.request.Domain = "vm1"
			p, err := Make(tt.request, tt.state)
			if err != nil {
				t.Fatal(err)
			}
			if got := describe(p); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			said := strings.Join(slices.Concat(p.Notes, p.Warnings, []string{p.Why}), "\n")
			if !strings.Contains(said, tt.said) || tt.said == "" && len(p.Notes)+len(p.Warnings) > 0 {
				t.Errorf("it says %q, want %q", said, tt.said)
			}
			checkPlan(t, p)
		})
	}
}

// checkPlan checks what holds for every plan.
func checkPlan(t *testing.T, p Plan) {
	t.Helper()
	isCheck := strings.HasPrefix(p.ID, "check")
	if isCheck != (p.Kind == full || p.Kind == inc) || !isCheck && p.Checkpoint != "" {
		t.Errorf("%s is a %s with the checkpoint %q", p.ID, p.Kind, p.Checkpoint)
	}
	if covered := slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.Bitmap }); covered != (p.Checkpoint == manifest.CheckpointName(p.ID, p.Identity)) {
		t.Errorf("%s: bitmaps %v, checkpoint %q", p.ID, covered, p.Checkpoint)
	}
	for _, d := range p.Disks {
		switch {
		case d.Incremental != (d.Since != ""), (d.Incremental || d.Rescan) != (d.Parent != ""), d.Incremental && (d.Rescan || d.Reason != ""):
			t.Errorf("disk %s: %+v", d.Target, d)
		case d.Incremental && (d.Since != p.Base.Checkpoint || d.Parent != "../"+p.Base.ID+"/"+d.Target+".qcow2" || d.BaseSize != gib || d.Expected != 1<<20):
			t.Errorf("incremental disk %s: %+v", d.Target, d)
		case !d.Incremental && (d.Expected != d.Size && d.Expected != gib/2 || p.Base != nil && d.Reason == ""):
			t.Errorf("full disk %s: %+v", d.Target, d)
		}
	}
}

func TestPlanLeavesOut(t *testing.T) {
	s := state()
	s.add(xml.Disk{Target: "hda", Device: "cdrom", ReadOnly: true, Format: "raw"}, 0)
	p, err := Make(Wanted{Domain: "vm1", Kind: full, Exclude: []string{"vdb"}}, s)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p.LeftOut); got != "[{vdb not chosen} {hda cdrom}]" {
		t.Errorf("left out: %s", got)
	}
}

// A domain of raw disks alone gets no checkpoint: libvirt would make one without
// disks.
func TestPlanOfRawDisksHasNoCheckpoint(t *testing.T) {
	s := state()
	s.format("vda", "raw")
	s.format("vdb", "raw")
	p, err := Make(Wanted{Domain: "vm1", Kind: full}, s)
	if err != nil || p.Checkpoint != "" {
		t.Errorf("checkpoint %q, %v", p.Checkpoint, err)
	}
}

func TestPlanKeepsTheGone(t *testing.T) {
	s := history()
	s.remove("vdb")
	p, err := Make(Wanted{Domain: "vm1", Kind: inc}, s)
	if err != nil || !slices.Equal(p.Gone, []string{"vdb"}) {
		t.Errorf("gone: %q, %v", p.Gone, err)
	}
}

// A run waits for jobs on the disks that the plan will have, and on no others.
func TestTargets(t *testing.T) {
	s := state()
	s.add(xml.Disk{Target: "sda", Device: "cdrom", ReadOnly: true}, 0)
	for _, r := range []Wanted{{Kind: full}, {Kind: full, Exclude: []string{"vda"}}, {Kind: full, Disks: []string{"vda"}}} {
		p, err := Make(r, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Targets(s.Disks); !slices.Equal(got, p.Targets()) {
			t.Errorf("%+v: %v, and the plan has %v", r, got, p.Targets())
		}
	}
}
