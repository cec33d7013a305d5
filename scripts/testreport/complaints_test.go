package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestComplaints(t *testing.T) {
	const output = `=== RUN   TestIt
    a_test.go:1: $ virtbackup full vm1
        error: none
        [exit 0]
    a_test.go:2: it has changed something: before
        one
        two
        three
        four
    domain.go:3: the end of a.log:
        line
--- FAIL: TestIt (0.01s)
`
	want := []string{"    a_test.go:2: it has changed something: before\n        one\n        two\n        three"}
	if got := complaints(output); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	many := strings.Repeat("    a_test.go:2: "+strings.Repeat("x", 400)+"\n", 20)
	got := complaints(many)
	if len(got) != maxComplaints || len(got[0]) > maxLength+len(" …") {
		t.Errorf("%d complaints, the first with %d bytes", len(got), len(got[0]))
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name, events, last string
		good               bool
	}{
		{"passes", `{"Action":"pass","Package":"p","Test":"A"}`, "1 passed, 0 failed, 0 skipped\n", true},
		{"none", ``, "0 passed, 0 failed, 0 skipped\n", false},
		{"skips", `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"skip","Package":"p","Test":"B"}`, "1 passed, 0 failed, 1 skipped\n", false},
		{"fails", `{"Action":"output","Package":"p","Test":"A","Output":"    a_test.go:1: wrong\n"}
{"Action":"fail","Package":"p","Test":"A"}`, "p A:\n    a_test.go:1: wrong\n0 passed, 1 failed, 0 skipped\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out, io.Discard)
			if err := r.read(strings.NewReader(c.events)); err != nil {
				t.Fatal(err)
			}
			if good := r.conclude(); good != c.good || !strings.HasSuffix(out.String(), c.last) {
				t.Errorf("good %v, printed %q, want the end %q", good, out.String(), c.last)
			}
		})
	}
}

func TestCut(t *testing.T) {
	const few = "=== RUN   TestIt\n    a_test.go:1: $ virtbackup full vm1\n        one\n--- FAIL: TestIt (0.01s)\n"
	if got := cut(few); got != few {
		t.Errorf("got %q", got)
	}
	text := "=== RUN   TestIt\n    a_test.go:1: $ virtbackup full vm1\n"
	for i := range 40 {
		text += fmt.Sprintf("        line %d\n", i)
	}
	text += "    a_test.go:2: wrong\n"
	want := "=== RUN   TestIt\n    a_test.go:1: $ virtbackup full vm1\n        line 0\n        line 1\n        line 2\n        … 27 lines …\n"
	for i := 30; i < 40; i++ {
		want += fmt.Sprintf("        line %d\n", i)
	}
	want += "    a_test.go:2: wrong\n"
	if got := cut(text); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	long := strings.Repeat("    a_test.go:2: wrong\n", 1000)
	if n := strings.Count(cut(long), "\n"); n != maxOfTest+1 {
		t.Errorf("%d lines", n)
	}
}
