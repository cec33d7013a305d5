package checkpoint

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/instants"
	"github.com/virtbackup/virtbackup/xml"
)

// deleter is a domain with one checkpoint of two disks, whose bitmaps may be missing from
// the images. It records what is deleted and defined.
type deleter struct {
	calls    []string
	missing  []string         // disks without the bitmap
	raw      []string         // disks for which libvirt refuses a checkpoint
	fails    map[string]error // calls that fail otherwise
	unlisted bool
	look     error // of CheckpointXML

	disks []string // of the checkpoint as it is listed now
}

func (d *deleter) CheckpointXML(string) (string, error) {
	if d.look != nil {
		return "", d.look
	}
	if d.unlisted {
		return "", hypervisor.ErrNoCheckpoint
	}
	return twoDisks, nil
}

func (d *deleter) call(name string) error {
	d.calls = append(d.calls, name)
	n := 0
	for _, c := range d.calls {
		if c == name {
			n++
		}
	}
	if err, ok := d.fails[fmt.Sprintf("%s#%d", name, n)]; ok {
		return err
	}
	return d.fails[name]
}

func (d *deleter) DeleteCheckpoint(_ string, metadataOnly bool) error {
	if metadataOnly {
		return d.call("metadata")
	}
	for _, target := range d.disks {
		if slices.Contains(d.missing, target) {
			return errors.Join(hypervisor.ErrMayLackBitmap, d.call("delete "+strings.Join(d.disks, "+")))
		}
	}
	return d.call("delete " + strings.Join(d.disks, "+"))
}

func (d *deleter) RedefineCheckpoint(doc string, validate bool) error {
	c, err := xml.ParseCheckpoint(doc)
	if err == nil && validate {
		return d.validate()
	}
	if err != nil || c.Created.IsZero() && !d.unlisted || c.Parent != "" || len(c.Disks) != 1 {
		return fmt.Errorf("redefine %v: %w", c, err)
	}
	d.disks = []string{c.Disks[0].Target}
	if slices.Contains(d.raw, d.disks[0]) {
		return errors.Join(hypervisor.ErrBitmap, d.call("define "+d.disks[0]))
	}
	return d.call("define " + d.disks[0])
}

func (d *deleter) validate() error {
	err := d.call("validate " + strings.Join(d.disks, "+"))
	if err == nil && slices.ContainsFunc(d.disks, func(target string) bool { return slices.Contains(d.missing, target) }) {
		return hypervisor.ErrCheckpointInconsistent
	}
	return err
}

const twoDisks = `<domaincheckpoint><name>check1</name><parent><name>check0</name></parent><creationTime>1700000000</creationTime>
<disks><disk name='vda' checkpoint='bitmap'/><disk name='vdb' checkpoint='bitmap'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>`

func TestDelete(t *testing.T) {
	locked := errors.New("locked")
	tests := []struct {
		name  string
		d     deleter
		calls string
		err   error
	}{
		{"whole", deleter{}, "delete vda+vdb", nil},
		{"one bitmap lost", deleter{missing: []string{"vda"}},
			"delete vda+vdb, validate vda+vdb, metadata, define vda, delete vda, validate vda, metadata, define vdb, delete vdb", nil},
		{"a disk that has no bitmaps", deleter{missing: []string{"vda"}, raw: []string{"vda"}},
			"delete vda+vdb, validate vda+vdb, metadata, define vda, define vdb, delete vdb", nil},
		{"shut off", deleter{fails: map[string]error{"delete vda+vdb": hypervisor.ErrNotRunning}}, "delete vda+vdb, metadata", nil},
		{"neither", deleter{missing: []string{"vdb"}, fails: map[string]error{"metadata": locked}}, "delete vda+vdb, validate vda+vdb, metadata", locked},
		{"off when asked why", deleter{missing: []string{"vdb"}, fails: map[string]error{"validate vda+vdb": hypervisor.ErrNotRunning}},
			"delete vda+vdb, validate vda+vdb, metadata", nil},
		{"off before the last", deleter{missing: []string{"vdb"}, fails: map[string]error{"delete vda": hypervisor.ErrNotRunning, "metadata#3": hypervisor.ErrNoCheckpoint}},
			"delete vda+vdb, validate vda+vdb, metadata, define vda, delete vda, metadata, metadata", nil},
		// The record stays if bitmaps may stay.
		{"another job", deleter{fails: map[string]error{"delete vda+vdb": hypervisor.ErrBusy}}, "delete vda+vdb", hypervisor.ErrBusy},
		{"QEMU refuses", deleter{fails: map[string]error{"delete vda+vdb": locked}}, "delete vda+vdb", locked},
		{"all bitmaps are there", deleter{fails: map[string]error{"delete vda+vdb": hypervisor.ErrMayLackBitmap}},
			"delete vda+vdb, validate vda+vdb", hypervisor.ErrMayLackBitmap},
		{"busy when asked why", deleter{missing: []string{"vdb"}, fails: map[string]error{"validate vda+vdb": hypervisor.ErrBusy}},
			"delete vda+vdb, validate vda+vdb", hypervisor.ErrBusy},
		// If one bitmap's state cannot be found out, the next is not tried.
		{"another job comes", deleter{missing: []string{"vdb"}, fails: map[string]error{"delete vda": hypervisor.ErrBusy}},
			"delete vda+vdb, validate vda+vdb, metadata, define vda, delete vda, metadata", hypervisor.ErrBusy},
		{"it comes earlier", deleter{missing: []string{"vdb"}, fails: map[string]error{"define vda": hypervisor.ErrBusy}},
			"delete vda+vdb, validate vda+vdb, metadata, define vda", hypervisor.ErrBusy},
	}
	for _, tt := range tests {
		tt.d.disks = []string{"vda", "vdb"}
		err := Delete(&tt.d, "check1")
		if got := strings.Join(tt.d.calls, ", "); got != tt.calls || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v after %s", tt.name, err, got)
		}
	}
}

// Only an answer of libvirt or QEMU about a bitmap proves that it does not exist: the caller
// drops the identity when nil is returned.
func TestDeleteOrphans(t *testing.T) {
	inUse := errors.New("Bitmap 'check1' is currently in use by another operation")
	i := instants.Instant{Identity: id2, Point: "check2", Checkpoint: true}
	fails := func(at string, err error) map[string]error { return map[string]error{at: err} }
	for name, tt := range map[string]struct {
		d     deleter
		calls string
		err   error
	}{
		"deleted":             {deleter{}, "define vda, delete vda, define vdb, delete vdb", nil},
		"not there, nor raw":  {deleter{missing: []string{"vda"}, raw: []string{"vdb"}}, "define vda, delete vda, validate vda, metadata, define vdb", nil},
		"define: another job": {deleter{fails: fails("define vda", hypervisor.ErrBusy)}, "define vda", hypervisor.ErrBusy},
		"define: not reached": {deleter{fails: fails("define vda", hypervisor.ErrUnreachable)}, "define vda", hypervisor.ErrUnreachable},
		"define: shut off":    {deleter{fails: fails("define vdb", hypervisor.ErrNotRunning)}, "define vda, delete vda, define vdb", hypervisor.ErrNotRunning},
		"define: any other":   {deleter{fails: fails("define vda", inUse)}, "define vda", inUse},
		// The record that was made to delete the bitmap does not stay.
		"delete: another job":    {deleter{fails: fails("delete vda", hypervisor.ErrBusy)}, "define vda, delete vda, metadata", hypervisor.ErrBusy},
		"delete: no such domain": {deleter{fails: fails("delete vda", hypervisor.ErrNoDomain)}, "define vda, delete vda, metadata", hypervisor.ErrNoDomain},
		"delete: in use":         {deleter{fails: fails("delete vda", inUse)}, "define vda, delete vda, metadata", inUse},
		"at last: not reached":   {deleter{look: hypervisor.ErrUnreachable}, "define vda, delete vda, define vdb, delete vdb", hypervisor.ErrUnreachable},
		"delete: why is unknown": {deleter{fails: fails("delete vda", hypervisor.ErrMayLackBitmap)}, "define vda, delete vda, validate vda, metadata", hypervisor.ErrMayLackBitmap},
	} {
		tt.d.unlisted = true
		err := DeleteOrphans(&tt.d, "11111111-2222-3333-4444-555555555555", i, []xml.Disk{{Target: "vda"}, {Target: "vdb"}})
		if got := strings.Join(tt.d.calls, ", "); got != tt.calls || !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v after %s", name, err, got)
		}
	}
}

// killed is a domain whose QEMU was killed: its images have no bitmaps. libvirtd reports that
// in a text that the code cannot parse, but uses error codes for whether a checkpoint is
// listed.
type killed struct{ listed map[string]string }

func (d *killed) CheckpointXML(name string) (string, error) {
	if doc, ok := d.listed[name]; ok {
		return doc, nil
	}
	return "", &hypervisor.Error{Kind: hypervisor.ErrNoCheckpoint, Message: "нет контрольной точки"}
}

func (d *killed) DeleteCheckpoint(name string, metadataOnly bool) error {
	if _, err := d.CheckpointXML(name); err != nil {
		return err
	}
	if !metadataOnly { // the kind is the one that package hypervisor gives it (TestDeleteErrorInAnyLanguage there)
		return &hypervisor.Error{Kind: hypervisor.ErrMayLackBitmap, Code: 1, Message: "внутренняя ошибка: битовая карта «check1» не найдена"}
	}
	delete(d.listed, name)
	return nil
}

func (d *killed) RedefineCheckpoint(doc string, validate bool) error {
	if validate {
		return &hypervisor.Error{Kind: hypervisor.ErrCheckpointInconsistent, Code: 109, Message: "неисправная битовая карта"}
	}
	c, err := xml.ParseCheckpoint(doc)
	d.listed[c.Name] = doc
	return err
}

// Lost bitmaps are recognised without libvirt's text: a checkpoint that has none is deleted,
// and the search for others leaves nothing listed.
func TestLostBitmapsInAnyLanguage(t *testing.T) {
	name := "check1." + id1
	d := &killed{map[string]string{name: doc(name, "x")}}
	if err := Delete(d, name); err != nil || len(d.listed) > 0 {
		t.Errorf("deleted: %v, listed %q", err, d.listed)
	}
	i := instants.Instant{Point: "check1", Identity: id1, Checkpoint: true}
	if err := DeleteOrphans(d, "repo", i, []xml.Disk{{Target: "vda"}, {Target: "vdb"}}); err != nil || len(d.listed) > 0 {
		t.Errorf("looked for others: %v, listed %q", err, d.listed)
	}
}
