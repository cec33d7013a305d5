package chains

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A repository that an earlier version wrote is kept in testdata/repositories, one
// for each change of what is written:
//
//	NAME.tar.gz     repo/ and truth.json
//
// To add one, before the change or after it:
//
//	VIRTBACKUP_RECORD=NAME go test -run TestOldRepositories ./tests/chains
//
// VIRTBACKUP_BINARY names the program that writes it; the default is the present one. The
// repositories called verified were also verified by the program that wrote them. For the
// states see docs/format.md, "Versions".
const oldRepositories = "testdata/repositories"

// oldTruth is truth.json: what the disks of each point held.
type oldTruth struct {
	Domain testdomain.Identity
	// Points are the points with the SHA-256 of each disk as a raw image, oldest
	// first.
	Points []oldPoint
}

type oldPoint struct {
	ID     string
	SHA256 map[string]string // by target
}

// Every version lists, verifies and restores what earlier ones wrote, and goes on
// with their chains.
func TestOldRepositories(t *testing.T) {
	t.Parallel()
	if name := os.Getenv("VIRTBACKUP_RECORD"); name != "" {
		t.Run("record", func(t *testing.T) { recordRepository(t, name) })
	}
	archives, err := filepath.Glob(filepath.Join(oldRepositories, "*.tar.gz"))
	if err != nil || len(archives) == 0 {
		t.Fatalf("no repositories in %s: %v", oldRepositories, err)
	}
	for i, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) { newOldSite(t, archive).use(i) })
	}
}

// recordRepository makes a repository with points of all kinds: compressed ones, a
// disk that grows, one that is raw, a rescan, a branch, a point of one disk alone.
func recordRepository(t *testing.T, name string) {
	t.Helper()
	const odd = 3<<20 + 37*512 // no multiple of any cluster size
	id := testdomain.Identity{Name: "vbtest-" + name, UUID: "d0a1f5ae-7d0a-4f0e-9c0a-0123456789ab"}
	d := testdomain.DefineAs(t, id, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: odd},
		testdomain.Disk{Target: "vdc", Size: 2 << 20, Format: "raw"})
	d.Start()
	s := testsite.New(t, d)
	round := 0
	change := func() {
		round++
		for _, target := range []string{"vda", "vdb", "vdc"} {
			s.IO(target, fmt.Sprintf("write -P %#x %dk 100k", 0x10+round, 150*round), fmt.Sprintf("write -z %dk 64k", 100*round+64),
				fmt.Sprintf("write -P %#x 1800k 3000", 0x80+round), fmt.Sprintf("discard %dk 128k", 1024+64*round))
		}
	}
	s.IO("vda", "write -P 0x77 0 3M")
	s.IO("vdb", "write -P 0x66 0 3M")
	for _, args := range [][]string{
		{"full"}, {"inc", "--compress", "zstd"}, {"diff"}, {"copy", "--compress", "zstd:19"},
		{"inc", "GROWN"}, {"inc", "CRASHED"}, {"inc", "--since", "check2"}, {"full", "--disk", "vdb"}, {"inc"},
	} {
		change()
		code := 0
		switch args[len(args)-1] {
		case "GROWN":
			args = args[:1]
			testdomain.Virsh(t, "blockresize", s.Name, "vda", "10M")
			s.IO("vda", "write -P 0x99 9M 1M")
		case "CRASHED":
			args, code = args[:1], 3
			s.Kill()
			s.Start()
		}
		if args[0] == "inc" && len(s.Points) > 5 {
			code = 3 // the bitmaps of check2 are lost; the full before does not have vda
		}
		s.BackUp(code, args[0], args[1:]...)
	}
	s.Check()
	pack(s, name, id)
}

// pack writes the archive of a repository with its truth.
func pack(s *testsite.Site, name string, id testdomain.Identity) {
	s.T.Helper()
	truth := oldTruth{Domain: id}
	for _, p := range s.Points {
		sums := map[string]string{}
		for _, d := range p.Disks {
			sums[d.Target] = sha256Of(s.T, p.Truth[d.Target])
		}
		truth.Points = append(truth.Points, oldPoint{p.ID, sums})
	}
	text, err := json.MarshalIndent(truth, "", "  ")
	if err != nil {
		s.T.Fatal(err)
	}
	top := filepath.Dir(s.Repo)
	testsite.WriteFile(s.T, filepath.Join(top, "truth.json"), string(text)+"\n")
	if err := os.MkdirAll(oldRepositories, 0o755); err != nil {
		s.T.Fatal(err)
	}
	testdomain.Tool(s.T, "tar", "-C", top, "--sort=name", "--owner=0", "--group=0", "-I", "gzip -9n", "-cf",
		filepath.Join(oldRepositories, name+".tar.gz"), "repo", "truth.json")
}

func sha256Of(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// oldSite is an unpacked repository.
type oldSite struct {
	t       *testing.T
	dir     string
	repo    string
	truth   oldTruth
	program testdomain.Program
}

func newOldSite(t *testing.T, archive string) *oldSite {
	t.Helper()
	s := &oldSite{t: t, dir: testdomain.TempDir(t)}
	testdomain.Tool(t, "tar", "-C", s.dir, "-xzf", archive)
	s.repo = filepath.Join(s.dir, "repo")
	s.program = testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + s.repo}}
	text, err := os.ReadFile(filepath.Join(s.dir, "truth.json"))
	if err == nil {
		err = json.Unmarshal(text, &s.truth)
	}
	if err != nil || len(s.truth.Points) == 0 {
		t.Fatalf("truth.json has %d points: %v", len(s.truth.Points), err)
	}
	return s
}

// use lists, verifies and restores, and goes on with the chains. The archives have the same points,
// so of each some are read, by its number: every point of an archive or two.
func (s *oldSite) use(number int) {
	s.t.Helper()
	var some []oldPoint
	for i, p := range s.truth.Points {
		if (i+number)%5 == 0 || i == len(s.truth.Points)-1 {
			some = append(some, p)
		}
	}
	var listed []manifest.Manifest
	if err := json.Unmarshal([]byte(s.program.Must(s.t, nil, "list", "--json").Stdout), &listed); err != nil {
		s.t.Fatal(err)
	}
	for i, p := range s.truth.Points {
		if len(listed) != len(s.truth.Points) || listed[i].ID != p.ID || len(listed[i].Disks) != len(p.SHA256) {
			s.t.Fatalf("list does not have the points of %+v", s.truth)
		}
	}
	for _, p := range some {
		if shown := s.program.Must(s.t, nil, "show", s.truth.Domain.Name+"@"+p.ID).Stdout; !strings.Contains(shown, p.ID) {
			s.t.Errorf("show does not show %s", p.ID)
		}
	}
	if verified := s.wantVerified(); !verified { // it writes down what it finds
		s.program.Must(s.t, nil, "verify")
	}
	for _, p := range some {
		s.wantTruth(p)
	}
	s.goOn(listed)
	s.program.Must(s.t, nil, "verify")
}

// wantVerified checks that list shows what verified.json in the archive says, if there is one:
// all points are sound but check9, of which a byte was changed while verify ran.
func (s *oldSite) wantVerified() bool {
	s.t.Helper()
	if _, err := os.Stat(filepath.Join(s.repo, s.truth.Domain.Name, "verified.json")); err != nil {
		return false
	}
	var listed []struct {
		ID       string
		Verified *repository.Verification
	}
	if err := json.Unmarshal([]byte(s.program.Must(s.t, nil, "list", "--json").Stdout), &listed); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range listed {
		if p.Verified == nil || p.Verified.Sound != (p.ID != "check9") {
			s.t.Errorf("%s is listed as verified %+v", p.ID, p.Verified)
		}
	}
	return true
}

// wantTruth compares what virtbackup restores from a point, and what qemu-img reads from its
// images, with what the disks held.
func (s *oldSite) wantTruth(p oldPoint) {
	s.t.Helper()
	dir := filepath.Join(s.dir, "restored")
	s.program.Must(s.t, nil, "restore", s.truth.Domain.Name, "--at", p.ID, "--to", dir, "--format", "raw")
	for target, want := range p.SHA256 {
		flat := filepath.Join(s.dir, "flat")
		testdomain.Flatten(s.t, filepath.Join(s.repo, s.truth.Domain.Name, p.ID, target+".qcow2"), flat)
		for _, raw := range []string{filepath.Join(dir, target+".raw"), flat} {
			if got := sha256Of(s.t, raw); got != want {
				s.t.Errorf("%s of %s is %s in %s, want %s", target, p.ID, got, raw, want)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		s.t.Fatal(err)
	}
}

// goOn defines the domain anew, with disks as the newest points have them, and
// makes points that are chained onto those of the archive.
func (s *oldSite) goOn(listed []manifest.Manifest) {
	s.t.Helper()
	newest := ""
	for _, m := range listed {
		if m.IsBase() {
			newest = m.ID
		}
	}
	dir := filepath.Join(s.dir, "disks")
	s.program.Must(s.t, nil, "restore", s.truth.Domain.Name, "--at", newest, "--to", dir)
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU has a user of its own
		s.t.Fatal(err)
	}
	var disks []testdomain.Disk
	m := listed[slices.IndexFunc(listed, func(m manifest.Manifest) bool { return m.ID == newest })]
	for _, d := range m.Disks {
		disk := testdomain.Disk{Target: d.Target, Size: d.VirtualSize, Source: filepath.Join(dir, d.Target+".qcow2")}
		if d.SourceFormat == "raw" {
			disk.Format, disk.Source = "raw", filepath.Join(dir, d.Target+".raw")
			testdomain.Flatten(s.t, filepath.Join(dir, d.Target+".qcow2"), disk.Source)
		}
		disks = append(disks, disk)
	}
	d := testdomain.DefineAs(s.t, s.truth.Domain, disks...)
	d.Start()
	next := testsite.New(s.t, d)
	next.Repo, next.Program = s.repo, s.program
	for _, disk := range disks {
		next.IO(disk.Target, "write -P 0xaa 300k 100k", "write -z 1M 64k")
	}
	before := s.defineEarlier(next, listed)
	inc := next.BackUp(3, "inc").Point
	next.WantCheckpoints(append(before, inc.ID)...)
	if inc.Parent != newest || !strings.HasPrefix(testsite.DiskOf(s.t, inc, "vda").Parent, "../"+newest+"/") {
		s.t.Errorf("%s is since %q, its vda since %q, want %s", inc.ID, inc.Parent, testsite.DiskOf(s.t, inc, "vda").Parent, newest)
	}
	if n := testsite.DiskOf(s.t, inc, "vda").DataBytes; n > 256<<10 {
		s.t.Errorf("vda of %s has %d bytes of data, want what has changed", inc.ID, n)
	}
	next.IO("vda", "write -P 0xab 400k 100k")
	if inc := next.BackUp(0, "inc").Point; testsite.DiskOf(s.t, inc, "vda").Method != "" {
		s.t.Errorf("vda of %s is a %s", inc.ID, testsite.DiskOf(s.t, inc, "vda").Method)
	}
	next.Check()
}

// defineEarlier gives libvirt the checkpoints of points of format 1, one of them as of
// another time than its point recorded: that one stays.
func (s *oldSite) defineEarlier(next *testsite.Site, listed []manifest.Manifest) (stay []string) {
	s.t.Helper()
	for _, m := range listed {
		if m.Identity != "" || m.Kind == manifest.KindDiff || m.Checkpoint == "" {
			continue
		}
		doc, err := os.ReadFile(filepath.Join(s.repo, s.truth.Domain.Name, m.ID, "checkpoint.xml"))
		if err != nil {
			s.t.Fatal(err)
		}
		text := string(doc)
		if len(stay) == 0 {
			text = regexp.MustCompile("<creationTime>[0-9]*").ReplaceAllString(text, "<creationTime>1700000000")
			stay = append(stay, m.ID)
		}
		file := filepath.Join(s.dir, "checkpoint.xml")
		testsite.WriteFile(s.t, file, text)
		testdomain.Virsh(s.t, "checkpoint-create", next.Name, file, "--redefine")
	}
	return stay
}
