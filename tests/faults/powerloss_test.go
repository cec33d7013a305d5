package faults

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// A power cut at any instant of a run leaves no listed point torn, whatever part
// of what was not synced is lost, and no point that was reported as done is lost.
//
// strace records the file system calls of the run; a model of a file system that keeps only
// what was synced (stable) executes them, and is cut off after each call. To show that the
// test would find a missing fsync, each one is left out in turn (a third of them, unless all
// faults are asked for).
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	seed := testsite.NewSeed(t)
	s := testsite.New(t, testdomain.New(t, testdomain.Disk{Target: "vda", Size: 8 << 20}, testdomain.Disk{Target: "vdb", Size: 2<<20 + 512}))
	needed := map[string]bool{} // what is synced -> a torn or lost point shows if it is not
	var total cuts
	if err := os.RemoveAll(s.Repo); err != nil { // the full makes it
		t.Fatal(err)
	}
	for _, kind := range []string{"full", "inc"} {
		s.IO("vda", fmt.Sprintf("write -P %#x 1M 2M", 0x40+len(s.Points)), "write -P 0x77 5M 100k")
		s.IO("vdb", fmt.Sprintf("write -P %#x 0 300k", 0x60+len(s.Points)))
		r := record(s, kind)
		n, states := r.cutEverywhere(t, rand.New(rand.NewPCG(seed, 1)), "")
		total.add(n)
		if n.wrong != nil {
			t.Errorf("%s: %v", kind, n.wrong)
		}
		for _, state := range states {
			judge(s, state)
		}
		for _, path := range someOf(r.synced(), seed) {
			n, _ := r.cutEverywhere(t, rand.New(rand.NewPCG(seed, 2)), path)
			needed[filepath.Base(path)] = needed[filepath.Base(path)] || n.wrong != nil
			t.Logf("%s, without the fsync of %s: %v", kind, path, n.wrong)
		}
	}
	for name, found := range needed {
		if !found {
			t.Errorf("nothing is wrong without the fsync of %s: it is not needed, or this test does not see it", name)
		}
	}
	t.Logf("%d power cuts after %d calls, %d points that were listed then were whole", total.states, total.calls, total.points)
	s.Check()
}

// someOf is a third of the paths, of other names each time, unless all faults are asked for.
func someOf(paths []string, seed uint64) []string {
	return slices.DeleteFunc(paths, func(path string) bool {
		sum := sha256.Sum256(fmt.Append(nil, seed, filepath.Base(path)))
		return !testsite.AllFaults() && sum[0]%3 != 0
	})
}

// cuts counts power cuts, and says what was wrong after one.
type cuts struct {
	calls, states, points int
	wrong                 error
}

func (n *cuts) add(m cuts) {
	n.calls, n.states, n.points = n.calls+m.calls, n.states+m.states, n.points+m.points
}

// recording is a run as a sequence of file system calls.
type recording struct {
	domain string // path of its directory in an image
	load   func() *stable
	events []event
	whole  image // what there is after the run
	before []string
}

// record makes a point under strace.
func record(s *testsite.Site, kind string) *recording {
	s.T.Helper()
	root := filepath.Dir(s.Repo)
	first := load(s.T, root).cut(nothing{})
	r := &recording{domain: "/repo/" + s.Name}
	r.before = first.points(r.domain)
	old := filepath.Join(s.Dir, "before-"+kind)
	first.save(s.T, old)
	truth := s.Truths()
	result, events := straced(s, root, []int{0, 3}, "--json", kind, s.Name)
	s.Add(result, truth)
	r.events = events
	r.whole = load(s.T, root).cut(nothing{})
	r.load = func() *stable {
		d := load(s.T, old)
		d.root = root
		return d
	}
	return r
}

// straced runs virtbackup under strace, and returns its file system calls below root.
func straced(s *testsite.Site, root string, codes []int, args ...string) (testdomain.Result, []event) {
	s.T.Helper()
	trace := filepath.Join(testdomain.TempDir(s.T), "trace")
	strace := testdomain.Program{Binary: "strace", Env: s.Program.Env}
	result := strace.Must(s.T, codes, append([]string{"-f", "-y", "-xx", "-s", "16777216", "-e", "signal=none", "-e", "trace=" + strings.Join(traced, ","),
		"-o", trace, testdomain.Binary(s.T)}, args...)...)
	return result, readTrace(s.T, trace, root)
}

// traced are the calls that change files or names, or make them durable. A call that the model
// does not know ends the test (see replay).
var traced = []string{"openat", "open", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync",
	"ftruncate", "truncate", "fallocate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
	"link", "linkat", "symlink", "symlinkat", "copy_file_range", "sendfile", "splice", "sync", "syncfs", "io_uring_enter"}

// cutEverywhere cuts the power after each call, and returns some of the states
// that are not wrong. Fsyncs of the path in without are left out.
func (r *recording) cutEverywhere(t *testing.T, rng *rand.Rand, without string) (n cuts, states []image) {
	t.Helper()
	d := r.load()
	full := len(r.before) + 1
	check := func(keep remains, last bool) {
		n.states++
		m := d.cut(keep)
		points := m.points(r.domain)
		n.points += len(points)
		for _, p := range points {
			if err := m.torn(r.whole, r.domain+"/"+p); err != nil {
				n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: %w", n.calls, err))
			}
		}
		if err := r.issued(d, m); err != nil {
			n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: %w", n.calls, err))
		}
		if want := len(r.before); len(points) < want || last && len(points) < full {
			n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: only %v are listed", n.calls, points))
		}
		if len(points) > 0 {
			if err := m.torn(r.whole, "/repo/repository.json"); err != nil || m["/repo/repository.json"] == nil {
				n.wrong = errors.Join(n.wrong, fmt.Errorf("after call %d: repository.json: %w", n.calls, err))
			}
		}
		if rng.IntN(200) == 0 || len(points) == full && rng.IntN(20) == 0 {
			states = append(states, m)
		}
	}
	d.replay(r.events, without, func() {
		n.calls++
		if n.wrong != nil {
			return
		}
		for _, keep := range []remains{nothing{}, all{}, some{rng}, some{rng}, some{rng}, some{rng}} {
			check(keep, false)
		}
	})
	if n.wrong == nil {
		check(nothing{}, true)
	}
	return n, states[:min(len(states), 5)]
}

// issued says what is wrong with the list of identities after a power cut: if it exists it
// must be whole, and have the identity of a run once an image is being written, because
// libvirt has a checkpoint of that identity by then.
func (r *recording) issued(d *stable, m image) error {
	list, ok := m[r.domain+"/instants.json"]
	if ok && !json.Valid(list) {
		return errors.New("instants.json is torn")
	}
	domain := d.find(d.root + r.domain)
	if domain == nil {
		return nil
	}
	for name, dir := range domain.now {
		id, partial := strings.CutPrefix(name, ".partial-")
		if partial && dir.now["vda.qcow2"] != nil && !strings.Contains(string(list), `"point": "`+id+`"`) {
			return fmt.Errorf("instants.json does not have %s, whose job has begun", id)
		}
	}
	return nil
}

// synced lists the paths that the run syncs.
func (r *recording) synced() (paths []string) {
	for _, e := range r.events {
		if c := e.call; (c.name == "fsync" || c.name == "fdatasync") && !slices.Contains(paths, c.path(0)) {
			paths = append(paths, c.path(0))
		}
	}
	return paths
}

// judge checks with virtbackup and qemu-img what a power cut has left.
func judge(s *testsite.Site, state image) {
	s.T.Helper()
	dir := testdomain.TempDir(s.T)
	state.save(s.T, dir)
	after := *s
	after.Repo = filepath.Join(dir, "repo")
	program := testdomain.Program{Env: []string{"VIRTBACKUP_REPO=" + after.Repo}}
	points := state.points("/repo/" + s.Name)
	if len(points) == 0 {
		return
	}
	program.Must(s.T, nil, "list", s.Name)
	for _, p := range s.Points {
		if slices.Contains(points, p.ID) {
			after.CheckFlattened(p)
		}
	}
}

// call is one line of strace, or two where calls overlap.
type call struct {
	name   string
	args   []string
	failed bool
	// returned is what the model is to do when the call returns.
	returned func()
}

// event is the begin or the end of a call.
type event struct {
	*call
	end bool
}

var (
	lineForm    = regexp.MustCompile(`^(\d+) +(.*)$`)
	resumedForm = regexp.MustCompile(`^<\.\.\. (\w+) resumed>.*\) += (.*)$`)
)

// readTrace reads the calls on files in root from strace's output.
func readTrace(t *testing.T, path, root string) (events []event) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	under := map[string]*call{} // by thread
	lines := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		m := lineForm.FindStringSubmatch(strings.TrimSpace(line))
		if err != nil || m == nil {
			t.Fatalf("strace: %.200q: %v", line, err)
		}
		events = append(events, readLine(t, m[1], m[2], under)...)
	}
	return slices.DeleteFunc(events, func(e event) bool { return !e.within(root) })
}

func readLine(t *testing.T, thread, text string, under map[string]*call) []event {
	t.Helper()
	switch {
	case strings.HasPrefix(text, "+++"), strings.HasPrefix(text, "---"):
		return nil
	case strings.HasPrefix(text, "<..."):
		r := resumedForm.FindStringSubmatch(text)
		c := under[thread]
		if r == nil || c == nil || c.name != r[1] {
			t.Fatalf("strace: %.200q", text)
		}
		c.failed = strings.HasPrefix(r[2], "-1 ")
		return []event{{c, true}}
	case strings.HasSuffix(text, "<unfinished ...>"):
		under[thread] = parseCall(t, strings.TrimSuffix(text, "<unfinished ...>"))
		return []event{{under[thread], false}}
	}
	end := strings.LastIndex(text, ") ")
	if equals := strings.LastIndex(text, ") = "); equals >= 0 {
		end = equals
	}
	c := parseCall(t, text[:max(end, 0)])
	c.failed = strings.Contains(text[end:], "= -1 ")
	return []event{{c, false}, {c, true}}
}

func parseCall(t *testing.T, text string) *call {
	t.Helper()
	name, args, ok := strings.Cut(text, "(")
	if !ok {
		t.Fatalf("strace: %.200q", text)
	}
	c := &call{name: name}
	for _, a := range strings.Split(strings.TrimSuffix(strings.TrimSpace(args), ","), ", ") {
		c.args = append(c.args, unhex(a))
	}
	return c
}

// unhex decodes the \xNN in an argument: strace was told to print all so.
func unhex(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s)/4+16)
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) && s[i+1] == 'x' {
			n, _ := strconv.ParseUint(s[i+2:i+4], 16, 8)
			b = append(b, byte(n))
			i += 3
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// within says whether a call is about a directory or what is in it.
func (c *call) within(root string) bool {
	return slices.ContainsFunc(c.args, func(a string) bool {
		return len(a) < 8192 && (strings.Contains(a, root+"/") || strings.Contains(a, root+">"))
	})
}

// path is that of the file behind a descriptor: 7</path>.
func (c *call) path(i int) string {
	_, path, _ := strings.Cut(c.args[i], "<")
	return strings.TrimSuffix(path, ">")
}

// at is the path that a directory's descriptor and a name make.
func (c *call) at(i int) string {
	if name := c.text(i + 1); !filepath.IsAbs(name) {
		return filepath.Join(c.path(i), name)
	}
	return filepath.Clean(c.text(i + 1))
}

func (c *call) text(i int) string {
	return strings.TrimSuffix(strings.TrimPrefix(c.args[i], `"`), `"`)
}

func (c *call) number(i int) int64 {
	n, err := strconv.ParseInt(c.args[i], 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%s: %q is no number", c.name, c.args[i]))
	}
	return n
}

// replay executes a trace in the model, and calls step after each call.
func (d *stable) replay(events []event, without string, step func()) {
	d.t.Helper()
	ends := map[string]int64{} // of files written without an offset
	for _, e := range events {
		switch {
		case !e.end:
			d.begin(e.call, without, ends)
		case !e.failed:
			e.returned()
			step()
		}
	}
}

func (d *stable) begin(c *call, without string, ends map[string]int64) {
	d.t.Helper()
	c.returned = func() {}
	switch c.name {
	case "openat":
		path, flags := c.at(0), c.args[2]
		c.returned = func() {
			if strings.Contains(flags, "O_CREAT") {
				d.create(path, false)
			}
			if strings.Contains(flags, "O_TRUNC") {
				d.resize(path, 0, true)
			}
			ends[path] = 0
		}
	case "mkdirat":
		c.returned = func() { d.create(c.at(0), true) }
	case "mkdir":
		c.returned = func() { d.create(c.text(0), true) }
	case "write":
		data := []byte(c.text(1))
		c.returned = d.write(c.path(0), ends[c.path(0)], data)
		ends[c.path(0)] += int64(len(data))
	case "pwrite64":
		c.returned = d.write(c.path(0), c.number(3), []byte(c.text(1)))
	case "ftruncate":
		c.returned = func() { d.resize(c.path(0), c.number(1), true) }
	case "fallocate":
		c.returned = func() { d.resize(c.path(0), c.number(2)+c.number(3), false) }
	case "renameat2", "renameat":
		c.returned = func() { d.rename(c.at(0), c.at(2)) }
	case "unlinkat":
		c.returned = func() { d.remove(c.at(0)) }
	case "unlink", "rmdir":
		c.returned = func() { d.remove(c.text(0)) }
	case "fsync", "fdatasync":
		if path := c.path(0); path != without {
			c.returned = d.sync(path)
		}
	default:
		d.t.Fatalf("%s: the model does not know this call", c.name)
	}
}
