package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// A failure or a panic of one domain does not stop the others. Cancelling the context does,
// and so does a call that hangs.
func TestRun(t *testing.T) {
	for line, want := range map[string]struct{ outcomes, left string }{
		"a b":             {"a: done, b: done", ""},
		"a warned b":      {"a: done, warned: done with warnings, b: done", ""},
		"broken a":        {"broken: boom, a: done", ""},
		"buggy a":         {"buggy: internal error: out of my depth, a: done", ""},
		"a cut b c":       {"a: done, cut: context canceled", "b c"},
		"a done-at-end b": {"a: done, done-at-end: done, b: context canceled", ""},
		"stuck b":         {"stuck: disk vda: " + backup.ErrStuck.Error(), "b"},
		"":                {"", ""},
	} {
		t.Run(line, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var told []string
			s := Run(ctx, strings.Fields(line), endsAs(ctx, cancel), func(o Outcome[string]) { told = append(told, text(o)) }, nil)
			var listed []string
			for _, o := range s.Outcomes {
				listed = append(listed, text(o))
			}
			if got := strings.Join(told, ", "); got != want.outcomes || !slices.Equal(told, listed) {
				t.Errorf("told %s, want %s; listed %v", got, want.outcomes, listed)
			}
			if left := strings.Join(s.Left, " "); left != want.left {
				t.Errorf("left: %s, want %s", left, want.left)
			}
		})
	}
}

// endsAs returns what the work for a domain of that name returns.
func endsAs(ctx context.Context, cancel func()) Do[string] {
	return func(domain string) (string, bool, error) {
		switch domain {
		case "broken":
			return "", false, errors.New("boom")
		case "buggy":
			panic("out of my depth")
		case "stuck":
			return "", false, fmt.Errorf("disk vda: %w", backup.ErrStuck)
		case "cut":
			cancel()
		case "done-at-end": // the signal came too late for it
			cancel()
			return "done", false, nil
		}
		return "done", domain == "warned", ctx.Err()
	}
}

func text(o Outcome[string]) string {
	switch {
	case o.Err != nil:
		return o.Domain + ": " + o.Err.Error()
	case o.Warned:
		return o.Domain + ": " + o.Result + " with warnings"
	}
	return o.Domain + ": " + o.Result
}

// A panic keeps its stack, and the result before an error is returned with it.
func TestOutcomes(t *testing.T) {
	var bug *panics.Error
	s := Run(context.Background(), []string{"a"}, func(string) (int, bool, error) { panic("boom") }, func(Outcome[int]) {}, nil)
	if err := s.Outcomes[0].Err; !errors.As(err, &bug) || !strings.Contains(string(bug.Stack), "fleet_test.go") {
		t.Errorf("a panic: %v", err)
	}
	s = Run(context.Background(), []string{"a"}, func(string) (int, bool, error) { return 7, true, errors.New("boom") }, func(Outcome[int]) {}, nil)
	if o := s.Outcomes[0]; o.Result != 7 || o.Err == nil {
		t.Errorf("a failure: %+v", o)
	}
}

// Once it is enough no other domain is begun, and which are left is said; the first always is.
func TestEnough(t *testing.T) {
	for after, want := range map[int]string{0: "[b c]", 1: "[b c]", 2: "[c]", 3: "[]"} {
		done := 0
		s := Run(context.Background(), []string{"a", "b", "c"}, func(string) (int, bool, error) { done++; return 0, false, errors.New("boom") },
			func(Outcome[int]) {}, func() bool { return done >= after })
		if got := fmt.Sprint(s.Late); got != want || len(s.Outcomes) != done || len(s.Left) > 0 {
			t.Errorf("enough after %d: late %s, want %s; %d done", after, got, want, done)
		}
	}
}
