package fakelibvirt

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"
)

// A domain that is loaded again is as it was left, without Close and Save, too.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	load := func() domain {
		d, err := new(Host).Load("vm1", dir)
		must(t, err)
		t.Cleanup(func() { must(t, d.Close()) })
		return domain{Domain: d, dir: dir}
	}
	first := load()
	d := first.Domain.(*Domain)
	must(t, d.Attach("vda", 1<<20))
	must(t, d.Attach("vdb", 3<<16))
	must(t, first.CreateCheckpoint(checkpoint("a")))
	d.Write("vda", 5<<16, []byte{1, 2, 3})
	must(t, first.BackupBegin(first.job("a"), checkpoint("b")))

	second := load()
	e := second.Domain.(*Domain)
	second.wantListed(t, "a< 65536, b<a 0")
	if job, err := e.BackupJob(); err != nil || job != orEmpty(d.BackupJob()) {
		t.Errorf("the job is %s, %v", job, err)
	}
	must(t, e.EndBackup(t.Context()))
	must(t, e.Resize("vda", 5<<16+512))
	must(t, e.Resize("vda", 1<<20+512))
	must(t, e.Detach("vdb"))

	third := load().Domain.(*Domain)
	if third.Job() || !slices.Equal(third.Targets(), []string{"vda"}) || third.UUID() != d.UUID() {
		t.Errorf("job %v, disks %v, %s", third.Job(), third.Targets(), third.UUID())
	}
	want := make([]byte, 1<<20+512)
	copy(want[5<<16:], []byte{1, 2, 3})
	if !bytes.Equal(third.Content("vda"), want) {
		t.Error("the disk has other bytes")
	}
	if files, err := filepath.Glob(filepath.Join(dir, "vdb*")); err != nil || len(files) > 0 {
		t.Errorf("left: %q, %v", files, err)
	}
	must(t, third.DropBitmaps("vda"))
	if got := load().Domain.(*Domain).Bitmaps("vda"); len(got) > 0 {
		t.Errorf("bitmaps %q", got)
	}
}

func orEmpty(s string, _ error) string { return s }
