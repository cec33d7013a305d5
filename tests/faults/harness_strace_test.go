package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
	"github.com/virtbackup/virtbackup/tests/testsite"
)

// straced runs virtbackup under strace, and returns its file system calls below root.
func straced(s *testsite.Site, root string, codes []int, args ...string) (testdomain.Result, []event) {
	s.T.Helper()
	return stracedBroken(s, root, "", codes, args...)
}

// stracedBroken is straced with a fault.
func stracedBroken(s *testsite.Site, root, fault string, codes []int, args ...string) (testdomain.Result, []event) {
	s.T.Helper()
	trace := filepath.Join(testdomain.TempDir(s.T), "trace")
	program := testdomain.Binary(s.T)
	if fault != "" {
		program = testdomain.FaultyBinary(s.T)
	}
	strace := testdomain.Program{Binary: "strace", Env: append(slices.Clone(s.Program.Env), "VIRTBACKUP_FAULT="+fault)}
	result := strace.Must(s.T, codes, append([]string{"-f", "-y", "-xx", "-s", "16777216", "-e", "signal=none", "-e", "trace=" + strings.Join(traced, ","),
		"-o", trace, program}, args...)...)
	return result, readTrace(s.T, trace, root)
}

// traced are the calls that change files or names, or make them durable. A call that the model
// does not know ends the test (see replay).
var traced = []string{"openat", "open", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync",
	"ftruncate", "truncate", "fallocate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
	"link", "linkat", "symlink", "symlinkat", "copy_file_range", "sendfile", "splice", "sync", "syncfs", "io_uring_enter", "ioctl"}

// call is one line of strace, or two where calls overlap.
type call struct {
	name   string
	args   []string
	result string
	failed bool
	// returned is what the model is to do when the call returns.
	returned func()
}

// event is the begin or the end of a call.
type event struct {
	*call
	end bool
}

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
		thread, text, ok := strings.Cut(strings.TrimSpace(line), " ")
		if err != nil || !ok {
			t.Fatalf("strace: %.200q: %v", line, err)
		}
		events = append(events, readLine(t, thread, strings.TrimSpace(text), under)...)
	}
	return slices.DeleteFunc(events, func(e event) bool { return !e.within(root) })
}

func readLine(t *testing.T, thread, text string, under map[string]*call) []event {
	t.Helper()
	switch {
	case strings.HasPrefix(text, "+++"), strings.HasPrefix(text, "---"):
		return nil
	case strings.HasPrefix(text, "<..."):
		c, end := under[thread], strings.LastIndex(text, ") ")
		if end < 0 || c == nil || !strings.HasPrefix(text, "<... "+c.name+" resumed>") {
			t.Fatalf("strace: %.200q", text)
		}
		_, result, _ := strings.Cut(text[end:], "= ")
		c.finish(result)
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
	_, result, _ := strings.Cut(text[end:], "= ")
	c.finish(result)
	return []event{{c, false}, {c, true}}
}

// finish takes the result of a call, as strace prints it.
func (c *call) finish(result string) {
	c.result, c.failed = unhex(result), strings.HasPrefix(result, "-1 ")
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

// unhex decodes the \xNN in an argument: strace was told to print all so. These are
// megabytes, for which the race detector would take most of a test's time.
//
//go:norace
func unhex(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s)/4+16)
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) && s[i+1] == 'x' {
			b = append(b, nibble(s[i+2])<<4|nibble(s[i+3]))
			i += 3
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// nibble is a digit of what strace prints, which is lower case.
//
//go:norace
func nibble(digit byte) byte {
	if digit >= 'a' {
		return digit - 'a' + 10
	}
	return digit - '0'
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

// exchanges tells whether it is an exchange of two names.
func (c *call) exchanges() bool {
	return c.name == "renameat2" && strings.Contains(c.args[4], "RENAME_EXCHANGE")
}

func (c *call) text(i int) string {
	return strings.TrimSuffix(strings.TrimPrefix(c.args[i], `"`), `"`)
}

func (c *call) number(i int) int64 { return c.parse(c.args[i]) }

// field is a number in a structure: src_offset=0.
func (c *call) field(i int) int64 {
	_, text, _ := strings.Cut(strings.TrimSuffix(c.args[i], "}"), "=")
	return c.parse(text)
}

func (c *call) parse(text string) int64 {
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%s: %q is no number", c.name, text))
	}
	return n
}

// files are those that the processes of a trace have open.
type files struct {
	ends  map[string]int64  // of files written without an offset, by path
	paths map[string]string // by descriptor: strace does not name the source of FICLONE
}

// leftOut chooses the fsyncs that are left out of a replay; nil: none.
type leftOut func(*call) bool

// ofPath chooses all fsyncs of a path.
func ofPath(path string) leftOut { return func(c *call) bool { return c.path(0) == path } }

// replay executes a trace in the model, and calls step after each call.
func (d *stable) replay(events []event, without leftOut, step func()) {
	d.t.Helper()
	d.replayCalls(events, without, func(*call) { step() })
}

func (d *stable) replayCalls(events []event, without leftOut, step func(*call)) {
	d.t.Helper()
	open := files{map[string]int64{}, map[string]string{}}
	for _, e := range events {
		switch {
		case !e.end:
			d.begin(e.call, without, open)
		case !e.failed:
			e.returned()
			step(e.call)
		}
	}
}

func (d *stable) begin(c *call, without leftOut, open files) {
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
			open.ends[path] = 0
			number, _, _ := strings.Cut(c.result, "<")
			open.paths[number] = path
		}
	case "mkdirat":
		c.returned = func() { d.create(c.at(0), true) }
	case "mkdir":
		c.returned = func() { d.create(c.text(0), true) }
	case "write":
		data := []byte(c.text(1))
		c.returned = d.write(c.path(0), open.ends[c.path(0)], data)
		open.ends[c.path(0)] += int64(len(data))
	case "pwrite64":
		c.returned = d.write(c.path(0), c.number(3), []byte(c.text(1)))
	case "ftruncate":
		c.returned = func() { d.resize(c.path(0), c.number(1), true) }
	case "fallocate":
		c.returned = func() { d.fallocate(c) }
	case "renameat2", "renameat":
		c.returned = func() {
			if c.exchanges() {
				d.exchange(c.at(0), c.at(2))
			} else {
				d.rename(c.at(0), c.at(2))
			}
		}
	case "linkat":
		c.returned = func() { d.link(c.at(0), c.at(2)) }
	case "ioctl":
		c.returned = func() { d.ioctl(c, open) }
	case "unlinkat":
		c.returned = func() { d.remove(c.at(0)) }
	case "unlink", "rmdir":
		c.returned = func() { d.remove(c.text(0)) }
	case "fsync", "fdatasync":
		if without == nil || !without(c) {
			c.returned = d.sync(c.path(0))
		}
	default:
		d.t.Fatalf("%s: the model does not know this call", c.name)
	}
}

func (d *stable) fallocate(c *call) {
	d.t.Helper()
	switch mode := c.args[1]; {
	case strings.Contains(mode, "FALLOC_FL_PUNCH_HOLE"):
		d.punch(c.path(0), c.number(2), c.number(3))
	case mode == "0":
		d.resize(c.path(0), c.number(2)+c.number(3), false)
	default:
		d.t.Fatalf("fallocate %s: the model does not know this mode", mode)
	}
}

// ioctl knows those that make files share data.
//
//	ioctl(7</to>, BTRFS_IOC_CLONE or FICLONE, 6)
//	ioctl(7</to>, BTRFS_IOC_CLONE_RANGE or FICLONERANGE, {src_fd=6</from>, src_offset=0, src_length=4096, dest_offset=8192})
func (d *stable) ioctl(c *call, open files) {
	d.t.Helper()
	switch request := c.args[1]; {
	case strings.HasSuffix(request, "FICLONE"):
		from := open.paths[c.args[2]]
		d.clone(from, 0, 0, c.path(0), 0)
	case strings.HasSuffix(request, "FICLONERANGE"):
		d.clone(c.path(2), c.field(3), c.field(4), c.path(0), c.field(5))
	case strings.HasSuffix(request, "FIEMAP"): // asks for the extents of a file
	default:
		d.t.Fatalf("ioctl %s: the model does not know this request", request)
	}
}
