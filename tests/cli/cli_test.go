package cli

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/restore"
	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// decode reads a result; standard output must be JSON and nothing else.
func decode[T any](t *testing.T, r testdomain.Result) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(r.Stdout))
	if err := d.Decode(&v); err != nil || d.More() {
		t.Fatalf("standard output is not one JSON value: %v\n%s", err, r.Stdout)
	}
	return v
}

func run(s *testsite.Site, args ...string) testdomain.Result {
	s.T.Helper()
	return s.Program.Must(s.T, nil, args...)
}

// checkpointRow is a line of "checkpoint list --json".
type checkpointRow struct {
	Name, Owner, Point string
	Bytes              map[string]int64
}

// A removed point is missing in the list, and the points that need it are marked.
func TestListSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	for _, kind := range []string{"full", "inc", "inc"} {
		s.BackUp(0, kind)
	}
	s.BackUp(0, "full", "--disk", "vda")
	if err := os.Rename(filepath.Join(s.Repo, s.Name, "check2"), filepath.Join(s.Dir, "check2")); err != nil {
		t.Fatal(err)
	}
	lost := map[string]string{}
	for _, p := range decode[[]struct {
		ID   string
		Lost []string
	}](t, run(s, "list", "--json")) {
		lost[p.ID] = strings.Join(p.Lost, " ")
	}
	if want := map[string]string{"check1": "", "check3": "vda vdb", "check4": ""}; !maps.Equal(lost, want) {
		t.Errorf("lost: %v, want %v", lost, want)
	}
	if text := run(s, "list").Stdout; strings.Count(text, "vda vdb LOST") != 1 {
		t.Errorf("the list:\n%s", text)
	}
}

// Checkpoints are listed with their owner and size, and deleted only if nothing needs them.
func TestCheckpointCommands(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "copy")
	if r := run(s, "checkpoint", "list", s.Name); r.Stdout != "no checkpoints\n" {
		t.Errorf("without any: %q", r.Stdout)
	}
	s.BackUp(0, "full")
	s.Write("vda", 0, 128<<10, 0x43)
	s.BackUp(0, "inc")
	file := filepath.Join(s.Dir, "theirs.xml")
	testsite.WriteFile(t, file, `<domaincheckpoint><name>theirs</name><disks><disk name='vdb' checkpoint='bitmap'/></disks></domaincheckpoint>`)
	testdomain.Virsh(t, "checkpoint-create", s.Name, file)

	rows := decode[[]checkpointRow](t, run(s, "--json", "checkpoint", "list", s.Name))
	if len(rows) != 3 {
		t.Fatalf("%d checkpoints, want 3", len(rows))
	}
	for i, want := range []checkpointRow{
		{s.Checkpoint("check2"), "ours", "check2", map[string]int64{"vda": 128 << 10, "vdb": 0}},
		{s.Checkpoint("check3"), "ours", "check3", map[string]int64{"vda": 0, "vdb": 0}},
		{"theirs", "foreign", "", map[string]int64{"vdb": 0}},
	} {
		if got := rows[i]; got.Name != want.Name || got.Owner != want.Owner || got.Point != want.Point || len(got.Bytes) != len(want.Bytes) || got.Bytes["vda"] != want.Bytes["vda"] {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	testsite.WantLine(t, run(s, "checkpoint", "list", s.Name).Stdout, `^theirs +foreign +- .* vdb +0 B$`)
	testsite.WantLine(t, run(s, "checkpoint", "size", s.Name).Stdout, `^check2 +vda +128.0 KiB$`)

	s.Rejects(testsite.Reject(1, "point check2 needs it", "--force deletes it nevertheless; the point stays and restores"), []string{"checkpoint", "delete", s.Name, "check2"})
	s.Rejects(testsite.Reject(1, "not made by virtbackup", "--force"), []string{"checkpoint", "delete", s.Name, "theirs"})
	s.Rejects(testsite.Reject(2, "DOMAIN CHECKPOINT", "virtbackup checkpoint delete --help"), []string{"checkpoint", "delete", s.Name})
	if r := run(s, "checkpoint", "delete", s.Name, "--force", "check3"); !strings.Contains(r.Stdout, "deleted checkpoint check3") || !strings.Contains(r.Stdout, "an inc or diff since it has to read") {
		t.Errorf("it does not name what is lost: %s", r.Stdout)
	}
	if got := decode[struct{ Deleted, Loss string }](t, run(s, "--json", "checkpoint", "delete", s.Name, "theirs", "--force")); got.Deleted != "theirs" || got.Loss == "" {
		t.Errorf("got %+v", got)
	}
	if got := strings.Join(s.Labels(), " "); got != "check2" {
		t.Errorf("left: %s", got)
	}
	s.Rejects(testsite.Reject(1, "checkpoint check3 is gone", "--fallback rescan"), []string{"inc", s.Name, "--since", "check3", "--fallback", "fail"})
	if p := s.BackUp(0, "inc").Point; p.Parent != "check2" {
		t.Errorf("the next inc is since %s, want check2", p.Parent)
	}
	s.Check()
}

// The checkpoint of a killed run is deleted together with its job: without its identity the
// job would not be recognised, and would go on filling the guest's scratch space.
func TestCheckpointOfAKilledRun(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	s.Write("vda", 0, 128<<10, 0x43)
	s.StartBroken("step end before:kill", nil, "inc").Wait()
	names := s.Checkpoints()
	if !s.HasJob() || len(names) != 2 {
		t.Fatalf("the killed run has left no job, or no checkpoint: %v", names)
	}
	name := names[1]
	testsite.WantLine(t, run(s, "checkpoint", "list", s.Name).Stdout, `^`+name+` +left over`)
	for _, more := range [][]string{nil, {"--force"}} {
		s.Rejects(testsite.Reject(1, "of a run that was killed", "virtbackup recover "+s.Name), append([]string{"checkpoint", "delete", s.Name, name}, more...))
	}
	s.Program.Must(t, nil, "recover", s.Name)
	s.WantNothingOfRun("check1")
	s.BackUp(0, "inc")
	s.Check()
}

func TestListAndShow(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	s.BackUp(0, "diff")
	s.Write("vda", 0, 128<<10, 0x43)
	s.BackUp(0, "inc")
	s.BackUp(0, "copy")

	if got := decode[[]manifest.Manifest](t, run(s, "--json", "list")); len(got) != 4 || got[0].ID != "check1" || got[3].ID != "copy4" {
		t.Errorf("list --json: %+v", got)
	}
	stamp := s.Points[2].Time.Local().Format(time.DateTime)
	for _, text := range []string{run(s, "list").Stdout, run(s, "list", s.Name, "--progress", "always").Stdout} {
		testsite.WantLine(t, text, `^`+s.Name+`$`)
		testsite.WantLine(t, text, `^  check1 +full +\d`)
		testsite.WantLine(t, text, `^  │  └─ diff2 +diff +check1 `)
		testsite.WantLine(t, text, `^  └─ check3 +inc +check1 +`+stamp+` +vda vdb +128.0 KiB +\d+\.\d KiB +crash +yes +-$`)
		testsite.WantLine(t, text, `^  copy4 +copy `)
	}
	if got := decode[manifest.Manifest](t, run(s, "show", "--json", s.Name+"@check3")); got.ID != "check3" || got.Parent != "check1" || len(got.Disks) != 2 {
		t.Errorf("show --json: %+v", got)
	}
	text := run(s, "show", s.Name+"@check3").Stdout
	for _, pattern := range []string{`^point: +check3$`, `^parent: +check1$`, `^checkpoint: +check3\.[0-9a-f]{16}$`, `^domain: +` + s.Name + ` \(` + s.UUID + `\)$`,
		`^time: +` + stamp, `^consistency: +crash$`, `^directory: +` + s.Repo, `^vda +inc +8.0 MiB +128.0 KiB +.*\.\./check1/vda.qcow2`} {
		testsite.WantLine(t, text, pattern)
	}
	testsite.WantLine(t, run(s, "show", s.Name).Stdout, `^point: +copy4$`)
}

// The timer's command makes a full where it must, an inc where it can, and says
// why.
func TestAuto(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	other := testsite.Small(t)
	s.Auto("full", "full: the first point of this domain")
	s.Auto("inc", "inc: since check1")
	testdomain.Virsh(t, "checkpoint-delete", s.Name, s.Checkpoint("check2"))
	s.Auto("inc", "inc: since check1")
	for _, name := range s.Checkpoints() {
		testdomain.Virsh(t, "checkpoint-delete", s.Name, name)
	}
	if got := s.BackUp(3, "auto"); got.Point.Kind != "inc" || got.Point.Disks[0].Method != "rescan" {
		t.Errorf("without any checkpoint auto made a %s, want an inc that compares: %+v", got.Point.Kind, got.Point.Disks)
	}
	s.Check()

	both := decode[[]backup.Result](t, run(s, "auto", s.Name, "--json", other.Name, "--quiet"))
	if len(both) != 2 || both[0].Point.Kind != "inc" || both[1].Point.Kind != "full" || both[1].Point.Domain != other.Name {
		t.Errorf("two domains: %+v", both)
	}
	r := s.Program.Must(t, []int{6}, "--json", "auto", "nosuch", s.Name)
	if got := decode[[]backup.Result](t, r); len(got) != 2 || got[1].Point.Domain != s.Name {
		t.Errorf("the other domain was not backed up: %+v", got)
	}
	for _, words := range []string{"error: look up domain nosuch: ", "error: 1 of 2 domains were not backed up: nosuch\n"} {
		if !strings.Contains(r.Stderr, words) {
			t.Errorf("it does not say %q", words)
		}
	}
	s.Rejects(testsite.Reject(2, "DOMAIN... | --all", "virtbackup auto --help"), []string{"auto"})
	s.Rejects(testsite.Reject(2, "DOMAIN... | --all", "virtbackup auto --help"), []string{"auto", "--all", s.Name})
}

// All domains of a connection: libvirt's test driver has one domain, which does not support
// backups.
func TestAutoAll(t *testing.T) {
	t.Parallel()
	repo := filepath.Join(testdomain.TempDir(t), "repo")
	p := testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + repo}}
	p.Must(t, nil, "init")
	before := testsite.Listing(t, repo)
	r := p.Must(t, []int{1}, "auto", "--all", "--connect", "test:///default")
	if !strings.Contains(r.Stderr, "read the backup job of domain test") {
		t.Error("it has not tried the domain named test")
	}
	if left := testsite.Listing(t, repo); left != before {
		t.Errorf("left: %s, before: %s", left, before)
	}
}

// A point is found by its name, by a time, or as the newest; disks and format
// can be chosen.
func TestRestoreOptions(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	s.BackUp(0, "full")
	time.Sleep(1100 * time.Millisecond) // times on the command line are whole seconds
	s.Write("vda", 0, 128<<10, 0x43)
	s.BackUp(0, "inc")
	for i, at := range [][]string{
		{"check1"}, {"check2"}, {s.Points[0].Time.Local().Format(time.DateTime)}, {s.Points[1].Time.Format(time.RFC3339Nano)}, {"latest"}, nil,
	} {
		to := filepath.Join(s.Dir, "at", string(rune('a'+i)))
		args := []string{"restore", "--json", s.Name, "--to", to, "--format", "raw"}
		if at != nil {
			args = append(args, "--at", at[0])
		}
		want := s.Points[[]int{0, 1, 0, 1, 1, 1}[i]]
		got := decode[restore.Result](t, run(s, args...))
		if got.Point != want.ID || len(got.Disks) != 2 {
			t.Fatalf("at %q: %+v, want %s", at, got, want.ID)
		}
		for _, d := range got.Disks {
			testsite.SameBytes(t, d.Image, want.Truth[d.Target])
		}
	}
	to := filepath.Join(s.Dir, "one")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	r := run(s, "restore", s.Name, "--disk", "vdb", "--to", to)
	testsite.WantLine(t, r.Stdout, `^restored check2 of domain `+s.Name)
	if names := names(t, to); !slices.Equal(names, []string{s.Name + ".xml", "vdb.qcow2"}) {
		t.Errorf("restored: %q", names)
	}
	testdomain.Same(t, filepath.Join(to, "vdb.qcow2"), "qcow2", s.Points[1].Truth["vdb"])
	if doc, err := os.ReadFile(filepath.Join(to, s.Name+".xml")); err != nil || !strings.Contains(string(doc), "<uuid>"+s.UUID+"</uuid>") {
		t.Errorf("the domain's XML: %v\n%s", err, doc)
	}
	testsite.Flip(t, filepath.Join(s.Repo, s.Name, "check2", manifest.DomainXML), 24)
	to = filepath.Join(s.Dir, "images")
	s.Refused(5, "--disk vda --disk vdb restores the images alone", "restore", s.Name, "--to", to)
	r = s.Program.Must(t, []int{3}, "restore", s.Name, "--disk", "vda", "--disk", "vdb", "--to", to)
	testsite.WantLine(t, r.Stderr, `the domain's XML is not restored: .*/check2/domain\.xml: differs`)
	if names := names(t, to); !slices.Equal(names, []string{"vda.qcow2", "vdb.qcow2"}) {
		t.Errorf("restored without the XML: %q", names)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Options may stand anywhere, for every command.
func TestOptionsAnywhere(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	p := testdomain.Program{} // without the environment: --repo must be found
	to := filepath.Join(s.Dir, "to")
	for _, line := range []string{
		"full NAME --repo REPO --quiet", "--repo REPO full --quiet NAME", "--repo=REPO inc NAME --since check1", "inc --since=check2 NAME --repo REPO",
		"diff NAME --repo REPO --since check1 --disk vda --exclude vdb", "diff --since check1 --repo REPO -- NAME", "copy --disk vda --repo REPO NAME --disk vdb",
		"auto NAME --repo REPO", "list NAME --repo REPO", "list --repo REPO NAME", "show --repo REPO NAME@check1", "show NAME@check1 --repo REPO --json",
		"restore NAME --repo REPO --to TO/1 --at check1", "restore --to TO/2 NAME --at=check1 --repo=REPO", "--repo REPO restore --disk vda NAME --to TO/3",
		"checkpoint list NAME --repo REPO", "checkpoint --repo REPO size NAME", "checkpoint delete NAME --repo REPO check1 --force", "--repo REPO checkpoint delete --force NAME check2",
	} {
		p.Must(t, nil, strings.Fields(strings.NewReplacer("NAME", s.Name, "REPO", s.Repo, "TO", to).Replace(line))...)
	}
	if got := strings.Join(names(t, filepath.Join(s.Repo, s.Name)), " "); got != "check1 check2 check3 check4 check8 copy7 diff5 diff6 instants.json lock readers" {
		t.Errorf("the repository holds %s", got)
	}
}

// Results go to standard output, log and progress to standard error, as much as
// was asked for.
func TestOutput(t *testing.T) {
	t.Parallel()
	s := testsite.Small(t)
	tests := []struct {
		args             string
		log, bars, steps bool
	}{
		{"", true, false, false},
		{"--quiet", false, false, false},
		{"--verbose", true, false, true},
		{"--progress never", true, false, false},
		{"--progress always", true, true, false},
		{"--progress always --quiet", false, false, false},
	}
	for _, tt := range tests {
		r := run(s, append([]string{"full", s.Name}, strings.Fields(tt.args)...)...)
		if got := strings.Contains(r.Stderr, "full check"); got != tt.log {
			t.Errorf("%q: log %v", tt.args, got)
		}
		if got := strings.Contains(r.Stderr, "\x1b["); got != tt.bars || got && !strings.Contains(r.Stderr, "done") {
			t.Errorf("%q: bars %v", tt.args, got)
		}
		if got := strings.Contains(r.Stderr, "step begin"); got != tt.steps {
			t.Errorf("%q: steps %v", tt.args, got)
		}
		if !tt.log {
			if r.Stdout != "" {
				t.Errorf("%q: the report %s", tt.args, r.Stdout)
			}
		} else {
			testsite.WantLine(t, r.Stdout, `^check\d+: full of domain `+s.Name+`, crash consistent, .* in \d`)
			testsite.WantLine(t, r.Stdout, `^  vda +full +8.0 MiB +1.0 MiB `)
		}
		json := run(s, append([]string{"--json", "copy", s.Name}, strings.Fields(tt.args)...)...)
		if got := decode[backup.Result](t, json); got.Point.Kind != "copy" {
			t.Errorf("%q: %+v", tt.args, got)
		}
	}
	s.Rejects(testsite.Reject(2, `not "sometimes"`, "--help"), []string{"list", "--progress", "sometimes"})
	s.Rejects(testsite.Reject(2, "--quiet and --verbose", "one of them"), []string{"list", "--quiet", "--verbose"})
}
