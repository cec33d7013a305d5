package plan

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/xml"
)

func TestPlanRefuses(t *testing.T) {
	tests := []struct {
		name    string
		request Wanted
		change  func(*State)
		want    string
		usage   bool // else not found
	}{
		{"unknown disk", Wanted{Kind: full, Disks: []string{"vdx"}}, nil, `domain vm1 has no disk "vdx"`, false},
		{"unknown excluded disk", Wanted{Kind: full, Exclude: []string{"vdx"}}, nil, `domain vm1 has no disk "vdx"`, false},
		{"all excluded", Wanted{Kind: full, Exclude: []string{"vda", "vdb"}}, nil, "no disk to back up: vda is not chosen, vdb is not chosen", true},
		{"unfit disk", Wanted{Kind: full, Disks: []string{"hda"}},
			func(s *State) { s.add(xml.Disk{Target: "hda", Device: "cdrom", ReadOnly: true}, 0) }, "disk hda of domain vm1 cannot be backed up", true},
		{"unknown point", Wanted{Kind: inc, Since: "check9"}, nil, `has no point check9`, false},
		{"removed point", Wanted{Kind: inc, Since: "check2"}, func(s *State) { s.hide("check2") }, "point check2 of domain vm1 was removed", false},
		{"no time", Wanted{Kind: inc, Since: "tomorrow"}, nil, `has no point "tomorrow", and that is no time either`, false},
		{"no base at all, latest", Wanted{Kind: inc, Since: "latest"}, func(s *State) { s.Points, s.Checkpoints = s.Points[3:], nil }, "domain vm1 has no point that can be a base", false},
		{"no base at all, a time", Wanted{Kind: diff, Since: "2099-01-01"}, func(s *State) { s.Points, s.Checkpoints = s.Points[3:], nil }, "domain vm1 has no point that can be a base", false},
		{"unknown point, no base at all", Wanted{Kind: inc, Since: "check9"}, func(s *State) { s.Points, s.Checkpoints = s.Points[3:], nil }, "has no point check9", false},
		{"since a diff", Wanted{Kind: inc, Since: "diff4"}, nil, "point diff4 is a diff", true},
		{"since a copy", Wanted{Kind: diff, Since: "copy5"}, nil, "point copy5 is a copy", true},
		{"since a point of other disks", Wanted{Kind: inc, Since: "check2"}, func(s *State) { s.lose("check2"); s.remove("vda"); s.remove("vdb"); s.add(qcow2Disk("vdc"), gib) },
			"point check2 has none of these disks", false},
		{"nothing to compare with", Wanted{Kind: inc}, func(s *State) { s.Checkpoints = nil; s.remove("vda"); s.remove("vdb"); s.add(qcow2Disk("vdc"), gib) },
			"no full or inc of these disks", false},
		{"nothing but diffs and copies", Wanted{Kind: inc}, func(s *State) { s.Points, s.Checkpoints = s.Points[3:], nil }, "no full or inc of these disks", false},
		{"no full to start from", Wanted{Kind: diff}, func(s *State) { s.Points = s.Points[1:] }, "no full of these disks", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := history()
			if tt.change != nil {
				tt.change(&s)
			}
			tt.request.Domain = "vm1"
			_, err := Make(tt.request, s)
			if err == nil || !strings.Contains(err.Error(), tt.want) || fail.Is(err, fail.Usage) != tt.usage || fail.Is(err, fail.NotFound) == tt.usage {
				t.Fatalf("got %T %v, want %q", err, err, tt.want)
			}
			if fail.HintOf(err) == "" {
				t.Error("it has no hint")
			}
		})
	}
}

// --since takes a point as every command does. A time, or latest, finds only points that
// can be a base.
func TestPlanSince(t *testing.T) {
	s := history()
	times := map[string]string{}
	for _, m := range s.Points {
		times[m.ID] = manifest.TimeText(m.Time)
	}
	for since, want := range map[string]string{
		"check2": "check2", "vm1@check2": "check2", manifest.Latest: "check3", times["check2"]: "check2", times["copy5"]: "check3",
	} {
		p, err := Make(Wanted{Domain: "vm1", Kind: inc, Since: since}, s)
		if err != nil || p.Base.ID != want {
			t.Errorf("%s: %v, want %s", since, err, want)
		}
	}
}

// With --fallback fail nothing is done if a disk would have to fall back.
func TestPlanFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		kind   manifest.Kind
		change func(*State)
		want   string
	}{
		{"one disk", inc, func(s *State) { s.bitmap("check3", "vda").Size = -1 },
			"not everything can be incremental since check3: disk vda: the bitmap of checkpoint check3 is missing or broken"},
		{"both", diff, func(s *State) { s.lose("check1") }, "disk vda: checkpoint check1 is gone from libvirt (deleted, or older than those that --keep-checkpoints keeps); disk vdb: checkpoint"},
		{"auto", Auto, func(s *State) { s.Sizes["vdb"] = gib / 2 }, "disk vdb: the disk has shrunk"},
		{"auto, all", Auto, func(s *State) { s.Checkpoints = nil }, "disk vdb: checkpoint check3 is gone from libvirt"},
	} {
		s := history()
		tt.change(&s)
		_, err := Make(Wanted{Domain: "vm1", Kind: tt.kind, Fallback: FallbackFail}, s)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(fail.HintOf(err), "--fallback rescan") {
			t.Errorf("%s: got %v, want %q and a hint", tt.name, err, tt.want)
		}
	}
	if p, err := Make(Wanted{Domain: "vm1", Kind: Auto, Fallback: FallbackFail}, state()); err != nil || p.Kind != full {
		t.Errorf("the first point: %v, %v", p.Kind, err)
	}
}

func TestValidate(t *testing.T) {
	for want, r := range map[string]Wanted{
		"unknown kind":            {Kind: "half"},
		"has no --since":          {Kind: full, Since: "check1"},
		"--fallback is":           {Kind: inc, Fallback: "maybe"},
		"inc backup has neither":  {Kind: inc, FullEvery: retention.Span{Days: 90}},
		"full backup has neither": {Kind: full, Synthetic: true},
		"both chosen and exclude": {Kind: full, Disks: []string{"vda"}, Exclude: []string{"vda"}},
	} {
		err := r.Validate()
		if !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), want) || fail.HintOf(err) == "" {
			t.Errorf("got %v, want %q and a hint", err, want)
		}
	}
	if err := (Wanted{Kind: Auto, FullEvery: retention.Span{Days: 90}, Synthetic: true}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (Wanted{Kind: Auto}).Validate(); err != nil {
		t.Error(err)
	}
}
