package fail

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

var errGone = Sentinel(NotFound, "look for it", "it is gone")

// typed is an error type with a kind and a hint of its own.
type typed struct {
	kind   Kind
	hint   string
	causes []error
}

func (e *typed) Error() string   { return "typed" }
func (e *typed) Kind() Kind      { return e.kind }
func (e *typed) Hint() string    { return e.hint }
func (e *typed) Unwrap() []error { return e.causes }

func TestKindAndHint(t *testing.T) {
	usage := Errorf(Usage, "ask otherwise", "no option %q", "--x")
	damaged := &typed{Damaged, "verify", nil}
	bug := &typed{Bug, "report it", nil}
	for name, tt := range map[string]struct {
		err  error
		kind Kind
		hint string
	}{
		"nil":                               {nil, Other, ""},
		"no kind":                           {fs.ErrNotExist, Other, ""},
		"one":                               {usage, Usage, "ask otherwise"},
		"without a hint":                    {Errorf(Locked, "", "locked"), Locked, ""},
		"wrapped":                           {fmt.Errorf("a: %w", fmt.Errorf("b: %w", usage)), Usage, "ask otherwise"},
		"a type":                            {fmt.Errorf("a: %w", damaged), Damaged, "verify"},
		"a hint alone":                      {WithHint(fs.ErrNotExist, "make %s", "it"), Other, "make it"},
		"a hint, and the kind below":        {fmt.Errorf("a: %w", WithHint(usage, "other")), Usage, "other"},
		"joined: the larger kind, either":   {errors.Join(errGone, damaged), Damaged, "verify"},
		"joined: the larger kind, or":       {errors.Join(damaged, errGone), Damaged, "verify"},
		"two %w":                            {fmt.Errorf("%w; %w", damaged, usage), Usage, "verify"},
		"a sentinel":                        {fmt.Errorf("a: %w", errGone), NotFound, "look for it"},
		"a sentinel of a sentinel":          {Sentinel(Usage, "mount it", "%w: far away", errGone), Usage, "mount it"},
		"a hint before that of a sentinel":  {WithHint(errGone, "here"), NotFound, "here"},
		"a hint beside that of a sentinel":  {errors.Join(errGone, usage), Usage, "ask otherwise"},
		"an empty hint above another":       {&typed{Damaged, "", []error{fs.ErrNotExist, errGone}}, Damaged, "look for it"},
		"a bug beside others":               {errors.Join(usage, errGone, fmt.Errorf("a: %w", bug)), Bug, "report it"},
		"a bug below a hint":                {WithHint(bug, "other"), Bug, "report it"},
		"causes of a type, one of them nil": {&typed{Other, "", []error{nil, usage}}, Usage, "ask otherwise"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := KindOf(tt.err); got != tt.kind {
				t.Errorf("kind %d, want %d", got, tt.kind)
			}
			if got := HintOf(tt.err); got != tt.hint {
				t.Errorf("hint %q, want %q", got, tt.hint)
			}
		})
	}
}

func TestIs(t *testing.T) {
	err := fmt.Errorf("a: %w", errors.Join(&typed{kind: Damaged}, errGone))
	for kind, want := range map[Kind]bool{Damaged: true, NotFound: true, Usage: false, Bug: false} {
		if Is(err, kind) != want {
			t.Errorf("kind %d: got %v, want %v", kind, !want, want)
		}
	}
	if Is(nil, Damaged) {
		t.Error("nil is damaged")
	}
}

// Text and causes are those of fmt.Errorf.
func TestWraps(t *testing.T) {
	err := Errorf(Damaged, "", "read %s: %w", "vda", fs.ErrInvalid)
	if err.Error() != "read vda: "+fs.ErrInvalid.Error() || !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Errorf: got %v", err)
	}
	hinted := WithHint(fmt.Errorf("a: %w", errGone), "hint")
	if hinted.Error() != "a: it is gone" || !errors.Is(hinted, errGone) {
		t.Errorf("WithHint: got %v", hinted)
	}
	far := Sentinel(Usage, "", "%w: far away", errGone)
	if !errors.Is(far, errGone) || errors.Is(errGone, far) || errors.Is(fmt.Errorf("it is gone"), errGone) {
		t.Error("a sentinel is not told from others by errors.Is")
	}
}
