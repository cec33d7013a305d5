package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Repository and scratch files on one small file system: what the backup itself
// writes there, fast and allocated ahead, is no reason to end it.
func TestRepositoryBesideScratch(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"ext4", "tmpfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testsite.Mounted(t, kind, 1000) // before the domain starts: QEMU has a mount namespace of its own
			s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 256 << 20}, testdomain.Disk{Target: "vdb", Size: 256 << 20}))
			s.At(dir)
			for _, target := range []string{"vda", "vdb"} {
				s.IO(target, "write -P 0x41 0 200M")
			}
			s.BackUp(0, "full", "--scratch-dir", dir)
			for _, target := range []string{"vda", "vdb"} {
				s.IO(target, "write -P 0x42 100M 100M")
			}
			s.BackUp(0, "inc", "--scratch-dir", dir)
			// Part of the rest is needed for the scratch files.
			for _, target := range []string{"vda", "vdb"} {
				s.IO(target, "write -P 0x43 0 150M")
			}
			s.Refused(1, "which are on the same file system", "inc", s.Name, "--scratch-dir", dir)
			s.Check()
		})
	}
}

// Space is shared under another device number, too: by an overlay here, as by subvolumes of
// btrfs and datasets of ZFS.
func TestRepositoryBesideScratchOfAnotherDevice(t *testing.T) {
	t.Parallel()
	dir := testsite.Mounted(t, "ext4", 1000)
	over := overlay(t, dir)
	scratch := filepath.Join(dir, "scratch")
	if err := errors.Join(os.Mkdir(scratch, 0o777), os.Chmod(scratch, 0o777)); err != nil {
		t.Fatal(err)
	}
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 256 << 20}, testdomain.Disk{Target: "vdb", Size: 256 << 20}))
	s.At(over)
	for _, target := range []string{"vda", "vdb"} {
		s.IO(target, "write -P 0x41 0 200M")
	}
	s.BackUp(0, "full", "--scratch-dir", scratch)
	for _, target := range []string{"vda", "vdb"} {
		s.IO(target, "write -P 0x42 100M 100M")
	}
	s.BackUp(0, "inc", "--scratch-dir", scratch)
	// It would fit but for the scratch files.
	for _, target := range []string{"vda", "vdb"} {
		s.IO(target, "write -P 0x43 0 140M")
	}
	s.Refused(1, "name a directory on another file system for the scratch files (--scratch-dir)", "inc", s.Name, "--scratch-dir", scratch)
	s.Check()
}

// overlay is a directory whose files take the space of the file system at dir.
func overlay(t *testing.T, dir string) string {
	t.Helper()
	over := filepath.Join(testdomain.TempDir(t), "over")
	for _, d := range []string{over, dir + "/lower", dir + "/upper", dir + "/work"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	testdomain.Tool(t, "mount", "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), "over", over)
	t.Cleanup(func() { testdomain.Tool(t, "umount", over) })
	return over
}

// Something else fills the file system of the scratch files: the backup ends to protect the
// guest, and the error does not blame the guest.
func TestOthersFillTheScratchSpace(t *testing.T) {
	t.Parallel()
	dir := testsite.Mounted(t, "ext4", 1000)
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 96 << 20}))
	s.At(dir).Write("vda", 0, 90<<20, 0x41)
	p := startSlowly(s, "full", "--scratch-dir", dir)
	testdomain.Tool(t, "fallocate", "-l", "850M", filepath.Join(dir, "filler"))
	wantFailed(t, p.Wait(), "less than the reserve of", "the guest has overwritten no more than 0 bytes while the job ran, something else fills that file system",
		"hint: free space in "+dir)
	s.NoPartial()
}

// discards writes data to the disk and discards most of it, as a guest that trims does: the
// discarded ranges are dirty zeros.
func discards(s *testsite.Site, target string, length int64) {
	s.T.Helper()
	for at := int64(0); at < length; at += 512 << 20 {
		s.IO(target, fmt.Sprintf("discard %d %d", at, min(512<<20, length-at)))
	}
}

// What a guest has trimmed is dirty and needs no space. An incremental that fits
// is not refused for it; one that does not fit still is, before a byte is written.
func TestTrimmedGuestOnASmallRepository(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 2 << 30}, testdomain.Disk{Target: "vdb", Size: 64 << 20}))
	dir := testsite.Mounted(t, "ext4", 128)
	s.At(dir)
	s.BackUp(0, "full")
	s.Write("vdb", 0, 1<<20, 0x41)
	discards(s, "vda", 2<<30)
	s.Write("vda", 1<<30, 10<<20, 0x42)
	inc := s.BackUp(0, "inc")
	if d := testsite.DiskOf(t, inc.Point, "vda"); d.DataBytes != 10<<20 || d.ZeroBytes < 2<<30-11<<20 {
		t.Errorf("vda has %d bytes of data and %d of zeros", d.DataBytes, d.ZeroBytes)
	}
	for kind, words := range map[string]string{"size": "INC COPIES AT MOST", "list": "INC COPIES AT MOST"} {
		if out := s.Program.Must(t, nil, "checkpoint", kind, s.Name).Stdout; !strings.Contains(out, words) {
			t.Errorf("checkpoint %s does not say %q:\n%s", kind, words, out)
		}
	}
	discards(s, "vda", 1<<30)
	s.Write("vda", 1<<30, 150<<20, 0x43)
	before := testsite.Listing(t, filepath.Join(dir, "repo"))
	s.Refused(1, "too little space for check3 of domain "+s.Name+": it needs about 15", "inc", s.Name)
	if after := testsite.Listing(t, filepath.Join(dir, "repo")); after != before {
		t.Errorf("something is left: before\n%s\nafter\n%s", before, after)
	}
	if s.HasJob() {
		t.Error("a job is left")
	}
	s.Check()
}

// Zeros take no space but for the tables that say so, 64 KiB for each 512 MiB: an
// incremental of a large disk that was trimmed is refused where these do not fit.
func TestTablesOfATrimmedGuestDoNotFit(t *testing.T) {
	t.Parallel()
	const size = 64 << 30
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: size}))
	dir := testsite.Mounted(t, "ext4", 16)
	s.At(dir)
	s.BackUp(0, "full")
	discards(s, "vda", size)
	testdomain.Tool(t, "fallocate", "-l", "8M", filepath.Join(dir, "filler"))
	s.Refused(1, "too little space for check2 of domain "+s.Name+": it needs about 8.", "inc", s.Name)
}
