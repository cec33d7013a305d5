package damage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
	"github.com/virtbackup/virtbackup/verify"
)

// smallChain makes check1 <- check2 <- check3 and diff4 since check2, with two
// small disks.
func smallChain(t *testing.T) *testsite.Site {
	t.Helper()
	s := testsite.New(t, testdomain.NewWithExtras(t, testdomain.Disk{Target: "vda", Size: 12 << 20}, testdomain.Disk{Target: "vdb", Size: 6<<20 + 512}))
	s.WriteAll(1)
	s.BackUp(0, "full")
	s.WriteAll(2)
	s.BackUp(0, "inc")
	s.WriteAll(3)
	s.IO("vda", "write -P 0x77 5M 2M") // images of more than one MiB above the base, too
	s.BackUp(0, "inc")
	s.WriteAll(4)
	s.BackUp(0, "diff", "--since", "check2")
	return s
}

// spoilt is a copy of the site's repository for one test.
func spoilt(s *testsite.Site, t *testing.T) *testsite.Site {
	t.Helper()
	c := *s
	c.T = t
	c.Repo = filepath.Join(testdomain.TempDir(t), "repo")
	c.Program.Env = []string{"VIRTBACKUP_REPO=" + c.Repo}
	if err := os.CopyFS(c.Repo, os.DirFS(s.Repo)); err != nil {
		t.Fatal(err)
	}
	return &c
}

// The output and the exit statuses of verify and restore.
func TestVerify(t *testing.T) {
	s := smallChain(t)
	s.Program.Must(t, []int{0}, "verify")
	s.Program.Must(t, []int{0}, "verify", s.Name)
	s.Program.Must(t, []int{0}, "verify", s.Name+"@latest")
	s.Refused(6, "no such restore point", "verify", s.Name+"@check9")
	s.Refused(6, "no points in repository", "verify", "nobody")
	s.Refused(2, "takes the arguments", "verify", "a", "b")
	t.Run("one byte", func(t *testing.T) { damagedBase(t, spoilt(s, t)) })
	t.Run("samples", func(t *testing.T) { sampled(t, spoilt(s, t)) })
	t.Run("harmless", func(t *testing.T) { damagedList(t, spoilt(s, t)) })
	t.Run("repository.json", func(t *testing.T) {
		c := spoilt(s, t)
		if err := os.WriteFile(filepath.Join(c.Repo, "repository.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		c.Refused(5, "repository.json", "verify")
	})
	s.Check()
}

// damagedBase flips one byte of data in the full of vda.
func damagedBase(t *testing.T, s *testsite.Site) {
	image := filepath.Join(s.Repo, s.Name, "check1", "vda.qcow2")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	flipByte(t, image, info.Size()-1)
	r := s.Program.Must(t, []int{5}, "verify", s.Name)
	for _, words := range []string{"DAMAGED  " + s.Name + "/check1/vda.qcow2", "lost with it: check1 check2 check3 diff4", "NOT vda; --disk vdb does"} {
		if !strings.Contains(r.Stdout, words) {
			t.Errorf("verify does not say %q", words)
		}
	}
	var report verify.Report
	if err := json.Unmarshal([]byte(s.Program.Must(t, []int{5}, "verify", s.Name, "--json").Stdout), &report); err != nil {
		t.Fatal(err)
	}
	if d := report.Domains[0]; len(d.Restores) != 0 || !slices.Equal(d.Lost, []string{"check1", "check2", "check3", "diff4"}) {
		t.Errorf("the report has %+v", d)
	}
	dir := filepath.Join(testdomain.TempDir(t), "restored")
	s.Refused(5, "lost with it: check1 check2 check3 diff4", "restore", s.Name, "--to", dir)
	if _, err := os.Lstat(dir); err == nil {
		t.Error("the directory of a refused restore is there")
	}
	s.Program.Must(t, []int{0}, "restore", s.Name, "--to", dir, "--disk", "vdb", "--format", "raw")
	testsite.SameBytes(t, filepath.Join(dir, "vdb.raw"), s.Points[3].Truth["vdb"])
	if list := s.Program.Must(t, []int{0}, "list", s.Name).Stdout; strings.Count(list, "DAMAGED") != len(s.Points) {
		t.Error("list does not say that all points are damaged")
	}
}

// sampled flips one byte of data in the newest point of the chain: a quick run does not find it,
// two samples of a half do, and say of the other points what is known.
func sampled(t *testing.T, s *testsite.Site) {
	if err := os.Remove(filepath.Join(s.Repo, s.Name, repository.VerifiedName)); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(s.Repo, s.Name, "check3", "vda.qcow2")
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	flipByte(t, image, info.Size()-1) // the last half
	s.Program.Must(t, []int{0}, "verify", s.Name, "--quick")
	s.Program.Must(t, []int{0}, "verify", s.Name, "--sample", "50%")
	if list := s.Program.Must(t, []int{0}, "list", s.Name).Stdout; strings.Count(list, " 50%") != len(s.Points) {
		t.Error("list does not say that half of each point was read")
	}
	r := s.Program.Must(t, []int{5}, "verify", s.Name, "--sample", "50%")
	for _, words := range []string{"DAMAGED  " + s.Name + "/check3/vda.qcow2", "lost with it: check3\n", "NOT vda; --disk vdb does", "yes; all was read since"} {
		if !strings.Contains(r.Stdout, words) {
			t.Errorf("verify does not say %q", words)
		}
	}
	var listed []struct{ Verified repository.Verification }
	if err := json.Unmarshal([]byte(s.Program.Must(t, nil, "--json", "list", s.Name).Stdout), &listed); err != nil {
		t.Fatal(err)
	}
	for i, p := range listed {
		if sound := s.Points[i].ID != "check3"; p.Verified.Sound != sound || p.Verified.Time.IsZero() {
			t.Errorf("%s: list has %+v", s.Points[i].ID, p.Verified)
		}
	}
}

// damagedList flips a byte of a hash list: the images are still sound.
func damagedList(t *testing.T, s *testsite.Site) {
	flipByte(t, filepath.Join(s.Repo, s.Name, "check2", "vda.hashes"), 40)
	r := s.Program.Must(t, []int{5}, "verify")
	if !strings.Contains(r.Stdout, "nothing is lost") || !strings.Contains(r.Stderr, "still restores") {
		t.Error("verify does not say that nothing is lost")
	}
	for i, p := range s.Points {
		code := 3
		if p.ID == "check1" { // which does not need the list
			code = 0
		}
		dir := filepath.Join(filepath.Dir(s.Repo), "restored-"+p.ID)
		s.Program.Must(t, []int{code}, "restore", s.Name, "--to", dir, "--at", p.ID, "--format", "raw")
		for target, truth := range s.Points[i].Truth {
			testsite.SameBytes(t, filepath.Join(dir, target+".raw"), truth)
		}
	}
	var listed []struct{ Verified repository.Verification }
	if err := json.Unmarshal([]byte(s.Program.Must(t, nil, "--json", "list", s.Name).Stdout), &listed); err != nil {
		t.Fatal(err)
	}
	for _, p := range listed {
		if !p.Verified.Sound || p.Verified.Time.IsZero() {
			t.Errorf("list has %+v for a point that restores", p)
		}
	}
}

func flipByte(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x41
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}
