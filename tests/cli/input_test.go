package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// Every bad request ends with its exit code, one error and a hint, and changes
// nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 16 << 20}, testdomain.Disk{Target: "vdb", Size: 1 << 20},
		testdomain.Disk{Target: "hda", Device: "cdrom"}))
	s.Write("vda", 0, 1<<20, 0x41)
	for _, kind := range []string{"full", "diff", "copy", "inc"} { // check1, diff2, copy3, check4
		s.Program.Must(t, nil, "--quiet", kind, s.Name)
	}
	scratch := testdomain.TempDir(t)
	notOne := filepath.Join(scratch, "photos")
	newer := filepath.Join(scratch, "newer")
	absent := filepath.Join(scratch, "absent")
	below := filepath.Join(absent, "repo")
	testsite.WriteFile(t, filepath.Join(notOne, "photo.jpg"), "x")
	testsite.WriteFile(t, filepath.Join(newer, "repository.json"), `{"format": 99, "id": "0b1c5b1e-1111-4222-8333-444455556666"}`)
	empty := filepath.Join(scratch, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(scratch, "restored")
	const nowhere = "qemu+unix:///system?socket=/nonexistent"

	tests := []struct {
		line string // NAME is the domain
		testsite.Rejection
	}{
		{"full nosuch", testsite.Reject(6, "nosuch", "virsh list")},
		{"inc nosuch", testsite.Reject(6, "nosuch", "virsh list")},
		{"auto nosuch", testsite.Reject(6, "nosuch", "virsh list")},
		{"full nosuch --repo " + absent, testsite.Reject(6, "nosuch", "virsh list")},
		{"list nosuch", testsite.Reject(6, "nosuch has no points", "virtbackup list")},
		{"show nosuch", testsite.Reject(6, "nosuch", "virtbackup list")},
		{"restore nosuch --to " + to, testsite.Reject(6, "nosuch", "virtbackup list")},
		{"restore ../x --to " + to, testsite.Reject(6, "../x", "virtbackup list")},
		{"checkpoint list nosuch", testsite.Reject(6, "nosuch", "virsh list")},
		{"checkpoint delete nosuch check1", testsite.Reject(6, "nosuch", "virsh list")},

		{"full NAME --repo=", testsite.Reject(2, "names no directory", "--repo /srv/backup")},
		{"inc NAME --keep-checkpoints 0", testsite.Reject(2, "must be at least 1, not 0", "--keep-checkpoints 8")},
		{"full NAME --connections 0", testsite.Reject(2, "must be at least 1, not 0", "--connections 2")},
		{"inc NAME --connections -1", testsite.Reject(2, "must be at least 1, not -1", "--connections 2")},
		{"full NAME --wait -5s", testsite.Reject(2, "--wait must be at least 0, not -5s", "--wait 30s")},
		{"auto NAME --agent-timeout -1s", testsite.Reject(2, "--agent-timeout must be at least 0, not -1s", "--agent-timeout 30s")},
		{"inc NAME --stall-timeout -1s", testsite.Reject(2, "--stall-timeout must be at least 0, not -1s", "--stall-timeout 30s")},
		{"recover NAME --agent-timeout -1s", testsite.Reject(2, "--agent-timeout must be at least 0, not -1s", "--agent-timeout 30s")},
		{"release NAME --agent-timeout -1s", testsite.Reject(2, "--agent-timeout must be at least 0, not -1s", "--agent-timeout 30s")},
		{"full NAME --disk vdx", testsite.Reject(6, `no disk "vdx"`, "vda, vdb, hda")},
		{"inc NAME --exclude vdx", testsite.Reject(6, `no disk "vdx"`, "vda, vdb, hda")},
		{"full NAME --disk hda", testsite.Reject(2, "hda of domain NAME cannot be backed up", "--disk hda")},
		{"full NAME --exclude vda --exclude vdb", testsite.Reject(2, "no disk to back up", "writable")},
		{"full NAME --disk vda --exclude vda", testsite.Reject(2, "both chosen and excluded", "leave out")},
		{"full NAME --disk vdx --repo " + absent, testsite.Reject(6, `no disk "vdx"`, "vda")},
		{"restore NAME --disk vdx --to " + to, testsite.Reject(6, `no disk "vdx"`, "virtbackup show NAME@check4")},

		{"inc NAME --since check99", testsite.Reject(6, "no point check99", "virtbackup list NAME")},
		{"diff NAME --since check99", testsite.Reject(6, "no point check99", "virtbackup list NAME")},
		{"show NAME@check99", testsite.Reject(6, "no point check99", "virtbackup list NAME")},
		{"restore NAME --at check99 --to " + to, testsite.Reject(6, "no point check99", "virtbackup list NAME")},
		{"checkpoint delete NAME check99", testsite.Reject(6, "check99", "checkpoint list")},
		{"restore NAME --at 2001-01-01 --to " + to, testsite.Reject(6, "no point at or before 2001-01-01 23:59:59: the first is check1", "virtbackup list NAME")},
		{"inc NAME --since diff2", testsite.Reject(2, "diff2 is a diff", "virtbackup list NAME")},
		{"inc NAME --since copy3", testsite.Reject(2, "copy3 is a copy", "virtbackup list NAME")},
		{"diff NAME --since diff2", testsite.Reject(2, "diff2 is a diff", "virtbackup list NAME")},
		{"full NAME --quiesce maybe", testsite.Reject(2, "--quiesce is try, require or no", "--help")},
		{"full NAME --quiesce require", testsite.Reject(1, "freeze the guest, as --quiesce require asks", "virsh resume NAME")},

		{"full NAME --repo " + notOne, testsite.Reject(2, "not a virtbackup repository, and not empty", "--repo")},
		{"inc NAME --repo " + notOne, testsite.Reject(2, "not a virtbackup repository", "--repo")},
		{"list --repo " + notOne, testsite.Reject(2, "not a virtbackup repository", "--repo")},
		{"inc NAME --repo " + absent, testsite.Reject(2, "the directory does not exist", "file system mounted")},
		{"diff NAME --repo " + absent, testsite.Reject(2, "the directory does not exist", "virtbackup init DIR")},
		{"auto NAME --repo " + absent, testsite.Reject(2, "the directory does not exist", "virtbackup init DIR")},
		{"auto NAME --repo " + empty, testsite.Reject(2, "it holds no repository.json", "virtbackup init DIR")},
		{"full NAME --repo " + below, testsite.Reject(2, "the directory does not exist, nor does "+absent, "virtbackup init DIR")},
		{"copy NAME --repo " + below, testsite.Reject(2, "the directory does not exist, nor does "+absent, "virtbackup init DIR")},
		{"list --repo " + absent, testsite.Reject(2, "the directory does not exist", "virtbackup init DIR")},
		{"init " + notOne, testsite.Reject(2, "not a virtbackup repository, and not empty", "--repo")},
		{"init " + newer, testsite.Reject(1, "made by a newer virtbackup", "newest virtbackup")},
		{"init " + absent + " " + below, testsite.Reject(2, "takes the arguments [DIR]", "virtbackup init --help")},
		{"inc NAME --repo " + newer, testsite.Reject(1, "made by a newer virtbackup", "newest virtbackup")},
		{"restore NAME --to " + notOne, testsite.Reject(2, "not empty (it has photo.jpg)", "--to")},
		{"restore NAME", testsite.Reject(2, "no directory to restore to", "--to DIR")},
		{"restore NAME --format vmdk --to " + to, testsite.Reject(2, `unknown format "vmdk"`, "--format qcow2")},
		{"restore NAME --to " + filepath.Join(notOne, "photo.jpg"), testsite.Reject(2, "not a directory", "--to")},

		{"full NAME --connect " + nowhere, testsite.Reject(1, "/nonexistent", "libvirtd")},
		{"checkpoint list NAME --connect " + nowhere, testsite.Reject(1, "/nonexistent", "libvirtd")},
		{"full NAME --connect qemu+ssh://elsewhere/system", testsite.Reject(2, "another host", "on the host that the domain runs on")},
		{"full NAME --scratch-dir " + absent, testsite.Reject(1, absent, "make "+absent)},
		{"full NAME --socket-dir " + absent, testsite.Reject(1, absent, "make "+absent)},
		{"full NAME --scratch-dir .", testsite.Reject(2, "absolute", "absolute")},
		{"full NAME --repo " + absent + " --scratch-dir " + absent + "2", testsite.Reject(1, absent+"2", "make "+absent+"2")},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			s := *s
			s.T = t
			tt.Error, tt.Hint = strings.ReplaceAll(tt.Error, "NAME", s.Name), strings.ReplaceAll(tt.Hint, "NAME", s.Name)
			s.Rejects(tt.Rejection, strings.Fields(strings.ReplaceAll(tt.line, "NAME", s.Name)), scratch)
		})
	}
}

// The points of a domain are never mixed with those of another domain of the same name.
func TestOtherDomainOfTheSameName(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	s.BackUp(0, "full")
	doc := testdomain.Virsh(t, "dumpxml", s.Name, "--inactive")
	s.Destroy()
	testdomain.Virsh(t, "undefine", s.Name, "--checkpoints-metadata")
	file := filepath.Join(s.Dir, "other.xml")
	testsite.WriteFile(t, file, regexp.MustCompile(`<uuid>.*</uuid>`).ReplaceAllString(doc, ""))
	testdomain.Virsh(t, "define", file)
	s.Start()
	old := s.UUID
	s.UUID = strings.TrimSpace(testdomain.Virsh(t, "domuuid", s.Name))
	for _, kind := range []string{"full", "inc", "auto"} {
		s.Rejects(testsite.Reject(1, old, "another repository"), []string{kind, s.Name})
	}
	s.Check()
}

func TestReadOnlyRepository(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	dir := testsite.Mount(t, "16m")
	s.Repo = filepath.Join(dir, "repo")
	s.Program.Env = []string{"VIRTBACKUP_REPO=" + s.Repo}
	s.BackUp(0, "full")
	testdomain.Tool(t, "mount", "-o", "remount,ro", dir)
	s.Rejects(testsite.Reject(1, "read-only", "mounted read-only"), []string{"inc", s.Name})
	s.Rejects(testsite.Reject(1, "read-only", "mounted read-only"), []string{"full", s.Name, "--repo", filepath.Join(dir, "new")}, dir)
	s.Program.Must(t, nil, "list")
	s.Check()
}

// A repository with too little space is refused before the job, with numbers, and a
// repository made for the run is removed. (TestTargetFillsInMidCopy: one that fills up later.)
func TestFullRepository(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 64 << 20}))
	s.Write("vda", 0, 1<<20, 0x41)
	dir := testsite.Mount(t, "16m")
	s.Repo = filepath.Join(dir, "repo")
	s.Program.Env = []string{"VIRTBACKUP_REPO=" + s.Repo}
	s.BackUp(0, "full")
	s.Write("vda", 0, 40<<20, 0x42)
	for _, kind := range []string{"inc", "full", "copy"} {
		s.Rejects(testsite.Reject(1, "it needs about 40.", "free space"), []string{kind, s.Name}, dir)
	}
	s.Rejects(testsite.Reject(1, "it needs about 40.", "free space"), []string{"full", s.Name, "--repo", filepath.Join(dir, "new")}, dir)
	s.Check()

	small := testsite.Mount(t, "512k")
	s.Rejects(testsite.Reject(1, "has too little space: it needs about 2.", "free space"), []string{"restore", s.Name, "--to", filepath.Join(small, "a", "b")}, small)
}

// Directories that QEMU may not enter are named.
func TestRefusedDirectories(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	dir := filepath.Join(testdomain.TempDir(t), "ours")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for option, hint := range map[string]string{"--socket-dir": "make a socket in " + dir, "--scratch-dir": "enter " + dir} {
		r := s.Rejects(testsite.Reject(1, "Permission denied", hint), []string{"full", s.Name, option, dir}, dir)
		if !strings.Contains(r.Stderr, dir) || !strings.Contains(r.Stderr, option) {
			t.Errorf("%s: it does not name the directory and the option", option)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s.BackUp(0, "full", "--socket-dir", dir, "--scratch-dir", dir)
	if left := testsite.Listing(t, dir); left != " "+dir {
		t.Errorf("left behind: %s", left)
	}
	s.Check()
}

// The job of another tool is waited for, named, and never touched.
func TestForeignJob(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	file := filepath.Join(s.Dir, "job.xml")
	testsite.WriteFile(t, file, fmt.Sprintf(`<domainbackup mode='pull'><server transport='unix' socket='/var/lib/libvirt/qemu/%s.sock'/>`+
		`<disks><disk name='vda' backup='yes' type='file'><scratch file='/var/lib/libvirt/qemu/%s.scratch'/></disk></disks></domainbackup>`, s.Name, s.Name))
	t.Cleanup(func() { _ = os.Remove("/var/lib/libvirt/qemu/" + s.Name + ".sock") })
	testdomain.Virsh(t, "backup-begin", s.Name, file)
	job := testdomain.Virsh(t, "backup-dumpxml", s.Name)
	r := s.Rejects(testsite.Reject(1, "held by a job that is not ours: backup", "virsh domjobinfo "+s.Name), []string{"full", s.Name, "--wait", "1s"})
	if !strings.Contains(r.Stderr, "waiting up to 1s") {
		t.Error("it does not say that it waits")
	}
	if now := testdomain.Virsh(t, "backup-dumpxml", s.Name); now != job {
		t.Errorf("the job is another one: %s", now)
	}
	waiting := s.Program.Start(t, "--json", "full", s.Name)
	testdomain.Virsh(t, "domjobabort", s.Name)
	if r := waiting.Wait(); r.Code != 0 {
		t.Errorf("exit %d after the job has ended", r.Code)
	}
}

// A foreign checkpoint and a damaged point are no obstacle, and the number of the point is
// not used again.
func TestNumbersAreNotUsedAgain(t *testing.T) {
	t.Parallel()
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 1 << 20}))
	s.Write("vda", 0, 64<<10, 0x41)
	file := filepath.Join(s.Dir, "checkpoint.xml")
	testsite.WriteFile(t, file, `<domaincheckpoint><name>check3</name></domaincheckpoint>`)
	testdomain.Virsh(t, "checkpoint-create", s.Name, file)
	if got := s.BackUp(0, "full").Point.ID; got != "check1" {
		t.Errorf("the point is %s, want check1", got)
	}
	damaged := filepath.Join(s.Repo, s.Name, "check7")
	testsite.WriteFile(t, filepath.Join(damaged, manifest.FileName), "{}")
	if got := s.BackUp(3, "inc").Point.ID; got != "check8" {
		t.Errorf("the point is %s, want check8", got)
	}
	s.Program.Must(t, []int{5}, "list", s.Name)
	if err := os.RemoveAll(damaged); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Labels(), " "); got != "check3 check1 check8" && got != "check1 check3 check8" {
		t.Errorf("checkpoints: %s", got)
	}
	s.Check()
}
