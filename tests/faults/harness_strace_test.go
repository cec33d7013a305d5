package faults

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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
