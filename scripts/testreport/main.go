// Testreport turns `go test -json` on standard input into a report for people: one
// line for each package, and the output of failed tests, with long parts cut. The
// file named by its argument gets all of that output. A summary of the failures
// comes last. It exits 1 if a test failed, if one was skipped, or if none was run.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Output     string
}

// report collects the outcome of a run.
type report struct {
	out                     io.Writer
	whole                   io.Writer                      // gets the output of failed tests uncut
	output                  map[[2]string]*strings.Builder // by package and test, of tests that have not ended
	passed, failed, skipped int
	bad                     []string // packages that failed, builds included
	why                     []string // what each failed test complained of
}

func newReport(out, whole io.Writer) *report {
	return &report{out: out, whole: whole, output: map[[2]string]*strings.Builder{}}
}

func main() {
	good, err := run(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}

// run reports on standard input; whole is the file for the output of failed tests.
func run(whole string) (good bool, err error) {
	f, err := os.Create(whole)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := newReport(os.Stdout, f)
	if err := r.read(os.Stdin); err != nil {
		return false, err
	}
	good = r.conclude()
	if !good {
		fmt.Println("all output of what failed:", whole)
	}
	return good, nil
}

// read processes every event. A line that is not an event is printed as it is.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil {
				_, _ = io.WriteString(r.out, line)
			} else {
				r.take(e)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the events of go test: %w", err)
		}
	}
}

func (r *report) take(e event) {
	switch {
	case e.Action == "build-output":
		_, _ = io.WriteString(r.out, e.Output)
	case e.Action == "build-fail":
		r.bad = append(r.bad, e.ImportPath)
	case e.Test == "":
		r.takePackage(e)
	default:
		r.takeTest(e)
	}
}

// takePackage prints the lines that belong to a package but to none of its tests. If
// a package fails, it also shows the output of tests that never ended (a panic, the
// time limit).
func (r *report) takePackage(e event) {
	switch e.Action {
	case "output":
		if e.Output != "PASS\n" {
			_, _ = io.WriteString(r.out, e.Output)
		}
	case "fail":
		r.bad = append(r.bad, e.Package)
		for key := range r.output {
			if key[0] == e.Package {
				r.show(key)
			}
		}
	}
}

func (r *report) takeTest(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "pass":
		r.passed++
		delete(r.output, key)
	case "fail":
		r.failed++
		r.explain(key)
		r.show(key)
	case "skip":
		r.skipped++
		r.show(key)
	}
}

// explain records in short why a test failed. A test that only contains a failed
// subtest has no reason of its own.
func (r *report) explain(key [2]string) {
	if b := r.output[key]; b != nil {
		if found := complaints(b.String()); len(found) > 0 {
			r.why = append(r.why, key[0]+" "+key[1]+":\n"+strings.Join(found, "\n"))
		}
	}
}

// show prints the output of a test, and drops it.
func (r *report) show(key [2]string) {
	if b := r.output[key]; b != nil {
		_, _ = io.WriteString(r.whole, b.String())
		_, _ = io.WriteString(r.out, cut(b.String()))
	}
	delete(r.output, key)
}

// conclude prints the summary and reports whether the run was successful.
func (r *report) conclude() bool {
	sort.Strings(r.bad)
	for _, name := range r.bad {
		fmt.Fprintln(r.out, "FAIL", name)
	}
	if r.skipped > 0 {
		fmt.Fprintln(r.out, "FAIL: a skipped test is a failure")
	}
	for _, why := range r.why {
		fmt.Fprintln(r.out, why)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	return r.failed == 0 && r.skipped == 0 && len(r.bad) == 0 && r.passed > 0
}
