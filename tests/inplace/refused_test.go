package inplace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/restore/inplace"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testfs"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// small is a domain that is shut off, with two points, and disks that have changed since.
func small(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 * mib}, testdomain.Disk{Target: "vdb", Size: 8 * mib, Format: "raw"}))
	s.Init()
	s.MayWarn = true
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.WriteAll(3)
	s.Destroy()
	return s
}

// rejects runs what must be refused: nothing of the repository and of the disks is changed.
func rejects(t *testing.T, s *testsite.Site, want testsite.Rejection, args ...string) {
	t.Helper()
	before := digests(t, s.Dir, s.Repo)
	s.Rejects(want, append([]string{"restore"}, args...), s.Dir)
	if after := digests(t, s.Dir, s.Repo); !maps.Equal(before, after) {
		t.Errorf("%v: files were changed: before %v, after %v", args, before, after)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Repo, s.Name, ".mark-in-place*")); len(left) > 0 {
		t.Errorf("%v: the mark is left", args)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s := small(t)
	at := func(point string) string { return s.Name + "@" + point }
	rejects(t, s, testsite.Reject(2, "standard input is no terminal", "--yes"), at("check1"), "--in-place", "--no-save")
	rejects(t, s, testsite.Reject(6, "has no disk \"vdx\"", "virtbackup show"), at("check1"), "--in-place", "--yes", "--no-save", "--disk", "vdx")
	rejects(t, s, testsite.Reject(6, "check9", ""), at("check9"), "--in-place", "--yes", "--no-save")
	rejects(t, s, testsite.Reject(2, "no directory to restore to", "--to DIR"), at("check1"), "--in-place=false", "--yes", "--no-save")
	rejects(t, s, testsite.Reject(2, "exclude each other", ""), at("check1"), "--in-place", "--to", "/nowhere", "--yes")
	rejects(t, s, testsite.Reject(2, "--stop-time must be at least 0", ""), at("check1"), "--in-place", "--yes", "--stop-time=-1s")
	rejects(t, s, testsite.Reject(2, "--stop-time needs --force", "shuts the domain down"), at("check1"), "--in-place", "--yes", "--stop-time=1m")

	t.Run("running", func(t *testing.T) {
		s.Start()
		defer s.Destroy()
		s.Rejects(testsite.Reject(2, "is running", "--force"), []string{"restore", at("check1"), "--in-place", "--yes", "--no-save"}, s.Dir)
		s.Rejects(testsite.Reject(2, "is paused and cannot shut down", "virsh resume"), []string{"restore", at("check1"), "--in-place", "--yes", "--no-save", "--force", "--quiet"}, s.Dir)
		// No guest listens: it does not shut down.
		testdomain.Virsh(t, "resume", s.Name)
		s.Rejects(testsite.Reject(1, "has not shut down within 1s", "virsh destroy"), []string{"restore", at("check1"), "--in-place", "--yes", "--no-save", "--force", "--stop-time", "1s", "--quiet"}, s.Dir)
		if s.State() != "running" {
			t.Errorf("the domain is %s", s.State())
		}
	})
	t.Run("missing image", func(t *testing.T) {
		path := s.Disk("vda").Source
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(path+".away", path)
		rejects(t, s, testsite.Reject(1, "its image "+path+" is missing", "--define"), at("check1"), "--in-place", "--yes", "--no-save")
	})
	t.Run("no image", func(t *testing.T) {
		path := s.Disk("vda").Source
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(path+".away", path)
		testsite.WriteFile(t, path, "")
		rejects(t, s, testsite.Reject(1, "its image "+path+" is no qcow2 image", "--define"), at("check1"), "--in-place", "--yes", "--no-save")
		s.Rejects(testsite.Reject(1, "its image "+path+" is no qcow2 image", "--exclude vda"), []string{"inc", s.Name}, s.Dir)
	})
	t.Run("image in use", func(t *testing.T) {
		socket := filepath.Join(testdomain.TempDir(t), "s")
		pid := filepath.Join(filepath.Dir(socket), "pid")
		testdomain.Tool(t, "qemu-nbd", "--fork", "--pid-file="+pid, "-k", socket, "-f", "raw", s.Disk("vdb").Source)
		defer testdomain.Tool(t, "sh", "-c", "while kill $(cat "+pid+") 2>/dev/null; do sleep 0.1; done")
		r := s.Program.Must(t, []int{1}, "restore", at("check1"), "--in-place", "--yes", "--no-save")
		if !strings.Contains(r.Stderr, "lock") && !strings.Contains(r.Stderr, "another process") {
			t.Errorf("%s", r.Stderr)
		}
	})
}

// A managed save would go on with disks that are not its own any more.
func TestManagedSave(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.Start()
	testdomain.Virsh(t, "managedsave", s.Name)
	t.Cleanup(func() { _, _ = testdomain.TryVirsh(t, "managedsave-remove", s.Name) })
	rejects(t, s, testsite.Reject(2, "has a managed save", "--force"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
	r := s.Program.Must(t, []int{0, 3}, "--json", "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save", "--force")
	if !strings.Contains(r.Stderr, "its managed save is discarded") {
		t.Error("it does not say that the managed save is discarded")
	}
	wantPoint(t, s, pointOf(t, s, "check1"))
	if info := testdomain.Virsh(t, "dominfo", s.Name); !strings.Contains(info, "Managed save:   no") {
		t.Errorf("the managed save is still there:\n%s", info)
	}
}

// Disks that others use are not written to: as their disk, as their backing file, by a link, in
// a domain that is off or running.
func TestOtherUsers(t *testing.T) {
	t.Parallel()
	s := small(t)
	vda := s.Disk("vda").Source
	dir := testdomain.TempDir(t)
	link, overlay := filepath.Join(dir, "link"), filepath.Join(dir, "overlay.qcow2")
	hard := filepath.Join(s.Dir, "hard.qcow2")
	if err := os.Symlink(vda, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(vda, hard); err != nil {
		t.Fatal(err)
	}
	testdomain.Tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", link, "-F", "qcow2", overlay)
	for _, source := range []string{vda, link, hard, overlay} {
		t.Run(filepath.Base(source), func(t *testing.T) {
			other := testdomain.Define(t, testdomain.Disk{Target: "vdc", Size: 8 * mib, Source: source})
			rejects(t, s, testsite.Reject(2, fmt.Sprintf("is used by disk vdc of domain %s", other.Name), "--disk vdb"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
			restored(t, s, "check1", "--no-save", "--disk", "vdb")
			wantPoint(t, s, pointOf(t, s, "check1"), "vdb")
		})
	}
}

// A domain of the same name that is another one keeps its disks.
func TestOtherDomain(t *testing.T) {
	t.Parallel()
	s := small(t)
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(testdomain.TempDir(t), "other.xml")
	testsite.WriteFile(t, file, strings.Replace(doc, s.UUID, "0b1de73e-14a5-4b26-8d39-6a4f5a4b3b9f", 1))
	testdomain.Virsh(t, "define", file)
	rejects(t, s, testsite.Reject(2, "another domain of that name", "--define"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
	testdomain.Virsh(t, "undefine", s.Name)
	before := digests(t, s.Dir, s.Repo)
	s.WantRejected(s.Program.Must(t, []int{6}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save"), testsite.Reject(6, "Domain not found", "--define"))
	if after := digests(t, s.Dir, s.Repo); !maps.Equal(before, after) {
		t.Error("files were changed")
	}
	testsite.WriteFile(t, file, doc)
	testdomain.Virsh(t, "define", file)
}

// Damage is found before anything is written.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := small(t)
	for _, target := range []string{"vda", "vdb"} {
		for _, id := range []string{"check1", "check2"} {
			image := s.Image(pointOf(t, s, id).Manifest, target)
			info, err := os.Stat(image)
			if err != nil {
				t.Fatal(err)
			}
			for _, offset := range []int64{100, info.Size() / 2, info.Size() - 1000} {
				testsite.Flip(t, image, offset)
				before := digests(t, s.Dir)
				r := s.Program.Run(t, "restore", s.Name+"@"+id, "--in-place", "--yes", "--no-save")
				if r.Code == 5 {
					if after := digests(t, s.Dir); !maps.Equal(before, after) {
						t.Errorf("%s of %s at %d: the disks were changed", target, id, offset)
					}
				} else if r.Code == 0 || r.Code == 3 { // it was not needed
					wantPoint(t, s, pointOf(t, s, id))
				} else {
					t.Errorf("exit %d", r.Code)
				}
				if r.Code == 5 {
					salvaged(t, s, id)
				}
				testsite.Flip(t, image, offset)
			}
		}
	}
}

// Nor is anything written where the disk reads as zeros, and the point was not read to compare them.
func TestDamageWhereTheDiskIsZeros(t *testing.T) {
	t.Parallel()
	s := small(t)
	for _, d := range s.Disks {
		testdomain.QemuIO(t, d.Source, d.Format, "write -z -u 0 8M")
	}
	image := s.Image(pointOf(t, s, "check1").Manifest, "vda")
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, bytes.Repeat([]byte{0x81}, 1000)) // what WriteAll writes at 3 MiB
	if at < 0 {
		t.Fatal("the image has not what was written")
	}
	testsite.Flip(t, image, int64(at))
	before := digests(t, s.Dir)
	s.Program.Must(t, []int{5}, "restore", s.Name+"@check1", "--in-place", "--yes", "--no-save")
	if after := digests(t, s.Dir); !maps.Equal(before, after) {
		t.Error("the disks were changed")
	}
}

// Damage in a later point, whose bitmap would show what has changed, is no matter of a sound one.
func TestDamageElsewhere(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.Program.Must(t, nil, "checkpoint", "delete", s.Name, "check1", "--force")
	image := s.Image(pointOf(t, s, "check2").Manifest, "vda")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	for offset := int64(64<<10) + 5; offset < info.Size(); offset += 64 << 10 {
		testsite.Flip(t, image, offset)
	}
	restored(t, s, "check1", "--no-save")
	wantPoint(t, s, pointOf(t, s, "check1"))
}

// salvaged restores a damaged point with --salvage: what it says is lost is zeros, or is what it
// was, and all else is right.
func salvaged(t *testing.T, s *testsite.Site, id string) {
	t.Helper()
	saved := savedDisks(t, s)
	defer saved.back(t)
	r := s.Program.Must(t, []int{5}, "--json", "restore", s.Name+"@"+id, "--in-place", "--yes", "--no-save", "--salvage")
	var result inplace.Result
	if err := json.NewDecoder(strings.NewReader(r.Stdout)).Decode(&result); err != nil || len(result.Lost) == 0 {
		t.Fatalf("%v: %+v", err, result)
	}
	for _, d := range s.Disks {
		raw := filepath.Join(testdomain.TempDir(t), "raw")
		testdomain.Tool(t, "qemu-img", "convert", "-f", d.Format, "-O", "raw", d.Source, raw)
		got, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(pointOf(t, s, id).Truth[d.Target])
		if err != nil {
			t.Fatal(err)
		}
		for _, lost := range result.Lost {
			if lost.Disk != d.Target {
				continue
			}
			part := got[lost.Offset : lost.Offset+lost.Length]
			if len(bytes.Trim(part, "\x00")) > 0 && !bytes.Equal(part, want[lost.Offset:lost.Offset+lost.Length]) {
				t.Errorf("disk %s: what is lost at %d is neither zeros nor what it was", d.Target, lost.Offset)
			}
			clear(part)
			clear(want[lost.Offset : lost.Offset+lost.Length])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("disk %s differs where nothing is lost", d.Target)
		}
	}
}

// Nor is a device written to that has a partition which is the disk of another domain.
func TestPartitionOfOthers(t *testing.T) {
	t.Parallel()
	s := onDevice(t)
	partition := testfs.Partition(t, s.Disk("vda").Source, 16*mib)
	other := testdomain.Define(t, testdomain.Disk{Target: "vdc", Size: 4 * mib, Format: "raw", Source: partition})
	rejects(t, s, testsite.Reject(2, "is used by disk vdc of domain "+other.Name, ""), s.Name+"@check1", "--in-place", "--yes", "--no-save")
}

// Nor is a raw file written to that the host itself has as a loop device, as for a mount: what that
// has cached would be written over it later.
func TestLoopOnRawFile(t *testing.T) {
	t.Parallel()
	s := small(t)
	vdb := s.Disk("vdb").Source
	loop := func(args ...string) {
		t.Helper()
		device := testfs.Attach(t, vdb, args...)
		if len(args) == 0 {
			rejects(t, s, testsite.Reject(2, vdb+" is in use: it is behind "+device, "end that use"), s.Name+"@check1", "--in-place", "--yes", "--no-save")
		} else {
			restored(t, s, "check1", "--no-save")
		}
	}
	loop("--read-only")
	loop()
}
