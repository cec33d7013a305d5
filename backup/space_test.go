package backup

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/bytesize"
	"github.com/virtbackup/virtbackup/internal/diskspace"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/xml"
)

// runIn is a run into a directory, with one disk that has that many bytes to copy.
func runIn(dir string, expected int64) *run {
	return runBesides(dir, dir, expected)
}

// runBesides is runIn with another directory for scratch files.
func runBesides(dir, scratch string, expected int64) *run {
	r := newRunWith(source.Options{ScratchDir: scratch})
	r.Repository = dir
	r.plan = plan.Plan{ID: "check2", Disks: []plan.Disk{{Disk: xml.Disk{Target: "vda"}, Size: expected, Expected: expected}}}
	return r
}

// A point that does not fit is refused with the numbers. With compression this is only a
// warning, as it may fit. A point of unknown size is not refused.
func TestCheckSpace(t *testing.T) {
	dir := t.TempDir()
	free, _, err := diskspace.Free(dir, os.Geteuid() == 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := runIn(dir, 1<<20).checkSpace(t.Context()); err != nil {
		t.Error(err)
	}
	big := free + free/4
	err = runIn(dir, big).checkSpace(t.Context())
	for _, want := range []string{"too little space", "check2", dir, "it needs about", "are missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	compressed := runIn(dir, big)
	compressed.Zstd = 3
	if err := compressed.checkSpace(t.Context()); err != nil || len(compressed.result.Warnings) != 1 {
		t.Errorf("%v, warnings %q", err, compressed.result.Warnings)
	}
	unknown := runIn(dir, big)
	unknown.plan.Disks[0].Expected = -1
	if err := unknown.checkSpace(t.Context()); err != nil {
		t.Error(err)
	}
}

// If the scratch files are on the repository's file system, the point cannot use their
// reserve. An incremental that may be all zeros is not refused yet.
func TestCheckSpaceBesideScratch(t *testing.T) {
	dir := t.TempDir()
	free, size, err := diskspace.Free(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	just := free - min(256<<20, size/8)/2 // fits without the reserve only
	if err := runIn(dir, just).checkSpace(t.Context()); err == nil || !strings.Contains(err.Error(), "which are on the same file system") {
		t.Error(err)
	}
	other := runBesides(dir, "/dev/shm", just)
	if other.source.Room(dir, just).Shared {
		t.Fatal("/dev/shm is not a separate file system")
	}
	if err := other.checkSpace(t.Context()); err != nil && strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
	inc := runIn(dir, 2*free)
	inc.plan.Disks[0].Incremental = true
	if err := inc.checkSpace(t.Context()); err != nil || !inc.doubtful {
		t.Errorf("%v, doubtful %v", err, inc.doubtful)
	}
	inc.plan.Disks = append(inc.plan.Disks, plan.Disk{Disk: xml.Disk{Target: "vdb"}, Size: 2 * free, Expected: 2 * free})
	if err := inc.checkSpace(t.Context()); err == nil {
		t.Error("a full beside it does not fit, and is not refused")
	}
}

// The point can use neither the space kept for root nor what a quota denies.
func TestRoomKeepsAReserve(t *testing.T) {
	for name, c := range map[string]struct{ repo, scratch, want int64 }{
		"the same is free for both": {100, 100, 90},
		"kept for root":             {105, 100, 90},
		"a quota of the repository": {50, 100, 50},
		"a quota of the scratch":    {100, 50, 40},
		"no room for the reserve":   {100, 5, 0},
	} {
		r := room{known: true, free: c.repo}
		if r.keep(10, c.scratch); r.free != c.want || r.reserve != 10 {
			t.Errorf("%s: %+v, want %d bytes free", name, r, c.want)
		}
	}
}

// If more was copied than expected, all of the disk may be copied.
func TestWillTake(t *testing.T) {
	const mib = 1 << 20
	r := newRun()
	r.plan.Disks = []plan.Disk{{Disk: xml.Disk{Target: "vda"}, Size: 100 * mib, Expected: 10 * mib, Incremental: true},
		{Disk: xml.Disk{Target: "vdb"}, Size: 100 * mib, Rescan: true}}
	r.meter.Expect(r.plan.Bytes(plan.Disk.Estimate))
	for _, c := range []struct{ copied, want int64 }{{0, 110}, {10 * mib, 110}, {10*mib + 1, 200}} {
		r.meter.Note("vda", c.copied)
		if got := r.willTake(); got < c.want*mib || got > (c.want+2)*mib {
			t.Errorf("%d bytes copied: %s, want %d MiB", c.copied, bytesize.Text(got), c.want)
		}
	}
}

// The error of a full target says how much is missing.
func TestExplainFull(t *testing.T) {
	r := runIn("/repo", 100<<20)
	r.need = 100 << 20
	r.meter.Note("vda", 20<<20)
	r.meter.Note("vdb", 20<<20)
	err := r.explainFull(syscall.ENOSPC)
	if want := "the repository at /repo is full after 40.0 MiB of about 100.0 MiB, about 60.0 MiB are missing: no space left on device"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	r.meter.Note("vda", 200<<20)
	if err := r.explainFull(syscall.ENOSPC); !strings.Contains(err.Error(), "how much is missing is unknown") {
		t.Error(err)
	}
}

// Space that is reserved but not written does not count.
func TestWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 16<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 1<<20), 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	d := plan.Disk{Disk: xml.Disk{Source: path, SourceType: "file"}, Expected: 16 << 20}
	if got := newRun().written(d); got < 1<<20 || got > 2<<20 {
		t.Errorf("%d bytes, want 1 MiB", got)
	}
	d.Incremental = true
	if got := newRun().written(d); got != 16<<20 {
		t.Errorf("incremental: %d bytes, want 16 MiB", got)
	}
	d.Incremental, d.Source = false, path+".absent"
	if got := newRun().written(d); got != 16<<20 {
		t.Errorf("no image: %d bytes, want 16 MiB", got)
	}
}

// If a temporary file finds no space, the repository is not reported as full.
func TestFullTemporaryDirectory(t *testing.T) {
	r := newRun()
	r.Repository, r.need = "/srv/backup", 10<<20
	full := &os.PathError{Op: "write", Path: "/var/tmp/x", Err: syscall.ENOSPC}
	if err := r.explainCopy(t.Context(), &hashlist.TemporaryError{Dir: "/var/tmp", Err: full}); strings.Contains(err.Error(), "the repository at /srv/backup is full") {
		t.Errorf("a temporary file: %v", err)
	}
	if err := r.explainCopy(t.Context(), full); !strings.Contains(err.Error(), "the repository at /srv/backup is full") {
		t.Errorf("an image: %v", err)
	}
}
