package backup

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/checkpoint"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/xml"
)

// sized is a checkpoint of ours with bitmaps of these sizes in bytes, vda's first; -1 means
// that libvirt reports no size.
func sized(name string, sizes ...int64) checkpoint.Checkpoint {
	c := checkpoint.Checkpoint{Checkpoint: xml.Checkpoint{Name: name}, Ours: true, Sealed: true}
	for i, size := range sizes {
		c.Disks = append(c.Disks, xml.CheckpointDisk{Target: "vd" + string(rune('a'+i)), Bitmap: name, Size: size})
	}
	return c
}

// A checkpoint is dead only if all of its bitmaps are known to be lost: not one of somebody
// else, not one of a detached disk, and none if libvirt reports no size of the new one.
func TestDeadCheckpoints(t *testing.T) {
	guest := xml.Domain{Disks: []xml.Disk{{Target: "vda"}, {Target: "vdb"}}}
	foreign, inherited := sized("foreign", -1), sized("inherited", -1)
	foreign.Ours, inherited.Inherited = false, true
	all := []checkpoint.Checkpoint{sized("dead", -1, -1), sized("half", -1, 0), sized("detached", -1, -1, -1), foreign, inherited, sized("new", 0, 0),
		sized("newer", 0, -1), sized("ended", -1, -1)}
	for made, want := range map[string]string{"new": "dead ended", "newer": "", "ended": "", "gone": ""} {
		if got := strings.Join(deadCheckpoints(all, made, guest), " "); got != want {
			t.Errorf("beside %s: %q, want %q", made, got, want)
		}
	}
}

// A checkpoint is kept if it is not ours alone, if a point needs it, or if the run that
// made it is alive.
func TestUseless(t *testing.T) {
	c := sized("check1", 0)
	foreign, inherited, left := c, c, c
	foreign.Ours, inherited.Inherited, left.Sealed = false, true, false
	leftElsewhere := left
	leftElsewhere.Inherited = true
	named := []string{"check1"}
	for _, tt := range []struct {
		name      string
		c         checkpoint.Checkpoint
		alive     bool
		dead, old []string
		want      string
	}{
		{"needed", c, false, nil, nil, ""},
		{"dead", c, false, named, nil, "its bitmaps are lost"},
		{"old", c, false, nil, named, "only the newest 3 are kept"},
		{"left over", left, false, nil, nil, "no point needs it"},
		{"of a run that is alive", left, true, nil, nil, ""},
		{"left over elsewhere", leftElsewhere, false, nil, nil, ""},
		{"foreign", foreign, false, named, named, ""},
		{"inherited", inherited, false, named, named, ""},
	} {
		r := &run{Request: Request{KeepCheckpoints: 3}}
		if got := r.useless(tt.c, func(instants.Instant) bool { return !tt.alive }, tt.dead, tt.old); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A size that is missing only once proves nothing.
func TestDeadTwice(t *testing.T) {
	before := []checkpoint.Checkpoint{sized("dead", -1), sized("sound", 0)}
	if got := strings.Join(deadBefore([]string{"dead", "sound", "new"}, before), " "); got != "dead" {
		t.Errorf("dead twice: %s", got)
	}
}

// The newest few checkpoints are kept, and that of the newest full, which a diff starts
// from.
func TestOldCheckpoints(t *testing.T) {
	kinds := map[string]manifest.Kind{"check1": manifest.KindFull, "check2": manifest.KindInc, "check3": manifest.KindFull,
		"check4": manifest.KindInc, "check5": manifest.KindInc, "check6": manifest.KindInc}
	var points []manifest.Manifest
	var all []checkpoint.Checkpoint
	for _, id := range []string{"check1", "check2", "check3", "check4", "check5", "check6"} {
		points = append(points, manifest.Manifest{ID: id, Kind: kinds[id], Checkpoint: id})
		all = append(all, sized(id, 0))
	}
	all[1].Inherited, all[4].Instant.State = true, instants.Retired
	foreign := sized("foreign", 0)
	foreign.Ours = false
	all = append(all, foreign)
	for keep, want := range map[int]string{1: "check4 check1", 2: "check1", 3: "check1", 5: ""} {
		if got := strings.Join(oldCheckpoints(all, points, keep), " "); got != want {
			t.Errorf("%d are kept: %q are old, want %q", keep, got, want)
		}
	}
}
