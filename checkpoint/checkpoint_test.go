package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/xml"
)

// doc is a checkpoint as libvirt prints it: vda with a healthy bitmap, vdb with
// a broken one (no size), vdc without.
func doc(name, description string) string {
	return `<domaincheckpoint><name>` + name + `</name><description>` + description + `</description>
  <creationTime>1700000000</creationTime>
  <disks>
    <disk name='vda' checkpoint='bitmap' bitmap='` + name + `' size='65536'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='` + name + `'/>
    <disk name='vdc' checkpoint='no'/>
  </disks></domaincheckpoint>`
}

// ledger is the ledger of a repository that has issued identities for check1, check2,
// which was not sealed, diff3, and check4, which is retired.
func ledger(t *testing.T) (*repository.Ledger, *repository.Lock) {
	t.Helper()
	r, err := repository.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	lock, err := r.Lock("vm1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Unlock() })
	for _, i := range []instants.Instant{
		{Point: "check1", Identity: id1, Checkpoint: true}, {Point: "check2", Identity: id2, Checkpoint: true},
		{Point: "diff3", Identity: id3}, {Point: "check4", Identity: id4, Checkpoint: true},
	} {
		if _, err := lock.Issue(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := lock.SetInstantState(id4, instants.Retired); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"check1", "check4"} { // cannot be read, so they count as sealed
		if err := os.Mkdir(r.PointDir("vm1", id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	l, err := r.Ledger("vm1")
	if err != nil {
		t.Fatal(err)
	}
	return l, lock
}

const (
	id1 = "1111111111111111"
	id2 = "2222222222222222"
	id3 = "3333333333333333"
	id4 = "4444444444444444"
)

func TestSurvey(t *testing.T) {
	l, lock := ledger(t)
	repo := l.RepositoryIDs()[0]
	docs := []string{
		doc("check1."+id1, Description(repo, "check1")),
		doc("check2."+id2, Description(repo, "check2")),
		doc("check4."+id4, Description(repo, "check4")),
		doc("diff3."+id3, Description(repo, "diff3")),                 // has no checkpoint
		doc("check5.5555555555555555", Description(repo, "check5")),   // of a copy of the repository
		doc("check1."+id2, Description(repo, "check1")),               // the identity of another point
		doc("check1", Description(repo, "check1")),                    // of format 1
		doc("check2."+id2, Description("another-one", "check2")),      // of another repository
		doc("check1."+id1, Description(repo, "check2")), doc("x", ""), // somebody's
	}
	all, err := Survey(docs, l)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range all {
		got = append(got, c.Label()+" "+c.Owner())
	}
	want := "check1 ours, check2 of a run, check4 retired, diff3." + id3 + " foreign, check5.5555555555555555 foreign, check1." + id2 +
		" foreign, check1 foreign, check2." + id2 + " foreign, check1." + id1 + " foreign, x foreign"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	all[1].Instant.Process.Start-- // and now it is dead
	if owner := all[1].Owner(); owner != "left over" {
		t.Errorf("of a process that has ended: %s", owner)
	}
	if base := []bool{all[0].Base(), all[1].Base(), all[2].Base()}; !slices.Equal(base, []bool{true, false, false}) {
		t.Errorf("bases: %v", base)
	}
	if c, ok := Choose(all, "check1"); !ok || c.Name != "check1."+id1 || !c.Ours {
		t.Errorf("check1 is %s", c.Name)
	}
	if c, ok := Choose(all[3:], "check1"); !ok || c.Ours {
		t.Errorf("check1, where there is none of ours, is %s", c.Name)
	}
	if _, err := Survey([]string{"<nonsense"}, l); err == nil {
		t.Error("a document that is no XML: no error")
	}
	if all, _ := Survey(docs, nil); slices.ContainsFunc(all, func(c Checkpoint) bool { return c.Ours }) {
		t.Error("without a ledger some are ours")
	}
	// In a copy all of them are inherited.
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(lock.Repository().Dir())); err != nil {
		t.Fatal(err)
	}
	r, err := repository.Open(copied)
	if err != nil {
		t.Fatal(err)
	}
	if l, err = r.Ledger("vm1"); err != nil {
		t.Fatal(err)
	}
	if all, err = Survey(docs[:3], l); err != nil || !all[0].Inherited || !all[1].Inherited || all[0].Owner() != "inherited" || Refuse(all[1]) == nil {
		t.Errorf("in a copy: %+v, %v", all, err)
	}
	if c, ok := Choose(all, "check1"); ok {
		t.Errorf("an inherited checkpoint is chosen by its point: %s", c.Name)
	}
	var inFull *NamedInFullError
	err = unknown(all, "vm1", "check1")
	if !errors.As(err, &inFull) || !errors.Is(err, hypervisor.ErrNoCheckpoint) || !strings.Contains(err.Error(), "inherited") || !strings.Contains(inFull.Hint(), "check1."+id1) {
		t.Errorf("an inherited checkpoint, named by its point: %v", err)
	}
	if err := unknown(all, "vm1", "check7"); errors.As(err, &inFull) {
		t.Errorf("one that does not exist: %v", err)
	}
}

// An identity is retired first, and is dropped only once libvirt does not list its
// checkpoint any more.
func TestDeleteIssued(t *testing.T) {
	_, lock := ledger(t)
	i, _ := issued(t, lock).Find(id1)
	broken := errors.New("broken")
	for _, tt := range []struct {
		d    listed
		want error
		left bool
	}{
		{listed{stays: true}, nil, true}, {listed{err: broken}, broken, true},
		{listed{off: true}, hypervisor.ErrNotRunning, true}, // its bitmaps would stay, and not be found again
		{listed{}, nil, false},
	} {
		err := DeleteIssued(&tt.d, lock, i)
		now, left := issued(t, lock).Find(id1)
		if (err != nil) != tt.left || tt.want != nil && !errors.Is(err, tt.want) || left != tt.left || left && now.State != instants.Retired {
			t.Errorf("%+v: %v, left %v %+v", tt.d, err, left, now)
		}
	}
}

func issued(t *testing.T, lock *repository.Lock) instants.List {
	t.Helper()
	is, damage, err := lock.Instants()
	if err != nil || damage != nil {
		t.Fatal(err, damage)
	}
	return is
}

// listed is a domain with one checkpoint.
type listed struct {
	stays, gone, off bool
	err              error
}

func (d *listed) CheckpointXML(string) (string, error) {
	switch {
	case d.err != nil:
		return "", d.err
	case d.gone:
		return "", hypervisor.ErrNoCheckpoint
	}
	return twoDisks, nil
}

func (d *listed) DeleteCheckpoint(string, bool) error {
	if d.off {
		return hypervisor.ErrNotRunning
	}
	d.gone = !d.stays
	return nil
}

func (d *listed) RedefineCheckpoint(string, bool) error { return nil }

func TestBitmaps(t *testing.T) {
	all, err := Survey([]string{doc("check1", "")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := all[0]
	if got := c.Broken(); !slices.Equal(got, []string{"vdb"}) {
		t.Errorf("broken: %q", got)
	}
	for _, tt := range []struct {
		target         string
		bitmap, usable bool
		size           int64
	}{{"vda", true, true, 65536}, {"vdb", true, false, -1}, {"vdc", false, false, -1}, {"vdx", false, false, -1}} {
		if c.Bitmap(tt.target) != tt.bitmap || c.Usable(tt.target) != tt.usable || c.Size(tt.target) != tt.size {
			t.Errorf("%s: bitmap %v, usable %v, size %d", tt.target, c.Bitmap(tt.target), c.Usable(tt.target), c.Size(tt.target))
		}
	}
}

func TestDead(t *testing.T) {
	disk := func(target, bitmap string, size int64) xml.CheckpointDisk {
		return xml.CheckpointDisk{Target: target, Bitmap: bitmap, Size: size}
	}
	good, empty, broken, none := disk("vda", "check1", 4096), disk("vdb", "check1", 0), disk("vdc", "check1", -1), disk("vdd", "", -1)
	for _, tt := range []struct {
		name          string
		disks         []xml.CheckpointDisk
		dead, healthy bool
	}{
		{"no disk", nil, false, false},
		{"none covered", []xml.CheckpointDisk{none}, false, false},
		{"all good", []xml.CheckpointDisk{good, empty, none}, false, true},
		{"nothing changed since", []xml.CheckpointDisk{empty}, false, true},
		{"one broken", []xml.CheckpointDisk{good, broken}, false, false},
		{"one broken, one empty", []xml.CheckpointDisk{broken, empty}, false, false},
		{"all broken", []xml.CheckpointDisk{broken, none, broken}, true, false},
	} {
		c := Checkpoint{Checkpoint: xml.Checkpoint{Name: "check1", Disks: tt.disks}}
		if c.Dead() != tt.dead || c.Healthy() != tt.healthy {
			t.Errorf("%s: dead %v, healthy %v", tt.name, c.Dead(), c.Healthy())
		}
	}
}

func TestRefuse(t *testing.T) {
	named := xml.Checkpoint{Name: "check1"}
	tests := []struct {
		name string
		c    Checkpoint
		want string // "" not refused
	}{
		{"foreign", Checkpoint{Checkpoint: named}, "not made by virtbackup for this repository"},
		{"needed", Checkpoint{Checkpoint: named, Ours: true, Sealed: true, Instant: instants.Instant{Point: "check1"}}, "point check1 needs it"},
		{"retired", Checkpoint{Checkpoint: named, Ours: true, Sealed: true, Instant: instants.Instant{Point: "check1", State: instants.Retired}}, ""},
		{"inherited", Checkpoint{Checkpoint: named, Ours: true, Inherited: true}, "the original may need it"},
		{"left over", Checkpoint{Checkpoint: named, Ours: true}, ""},
	}
	for _, tt := range tests {
		err := Refuse(tt.c)
		var refused *RefusedError
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: got %v", tt.name, err)
			}
			continue
		}
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(refused.Hint(), "--force") || refused.Loss == "" {
			t.Errorf("%s: got %v", tt.name, err)
		}
	}
}

func TestFind(t *testing.T) {
	all := []Checkpoint{{Checkpoint: xml.Checkpoint{Name: "check1"}}, {Checkpoint: xml.Checkpoint{Name: "check2"}}}
	if c, ok := Find(all, "check2"); !ok || c.Name != "check2" {
		t.Errorf("got %v, %v", c, ok)
	}
	if _, ok := Find(all, "check3"); ok {
		t.Error("found what is not there")
	}
}
