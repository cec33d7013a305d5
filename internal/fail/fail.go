// Package fail has the kinds of failure that the program's callers tell apart, and the
// hints that say what to do about one.
//
// An error gets its kind and hint where its cause is known: from [Errorf] or [WithHint], as a
// [Sentinel], or as a type of its own with methods Kind() fail.Kind and Hint() string. Both
// are found through wrapping, errors.Join included.
package fail

import (
	"fmt"
	"iter"
)

// Kind is a kind of failure. Where an error has several the largest counts.
type Kind int

// The kinds, the one that counts least first.
const (
	Other    Kind = iota // all that has no kind of its own
	NotFound             // a domain, point, disk or checkpoint does not exist
	Damaged              // the repository is not as it was written
	Locked               // another run works on the domain
	Usage                // what was asked for cannot be done as it was worded
	Warned               // all is done, and a warning was given
	Bug                  // a panic
)

// failure is an error with a kind, a hint or both.
type failure struct {
	error
	kind    Kind
	hint    string
	general bool // the hint is that of a sentinel
}

func (f *failure) Unwrap() error { return f.error }
func (f *failure) Kind() Kind    { return f.kind }

// Errorf returns an error of a kind, with a hint ("" for none) and the text and causes of
// fmt.Errorf.
func Errorf(kind Kind, hint, format string, args ...any) error {
	return &failure{error: fmt.Errorf(format, args...), kind: kind, hint: hint}
}

// Sentinel returns an error for callers to compare with by errors.Is. Its hint knows the
// cause, but not the case: any hint that was added to the case counts more.
func Sentinel(kind Kind, hint, format string, args ...any) error {
	return &failure{error: fmt.Errorf(format, args...), kind: kind, hint: hint, general: true}
}

// WithHint adds a hint to err, which counts more than those that err has.
func WithHint(err error, format string, args ...any) error {
	return &failure{error: err, hint: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of err: of the kinds that it and its causes have, the one that
// counts most. It is Other for nil.
func KindOf(err error) Kind {
	kind := Other
	for e := range tree(err) {
		kind = max(kind, ownKind(e))
	}
	return kind
}

// Is reports whether err or one of its causes is of a kind, other kinds notwithstanding.
func Is(err error, kind Kind) bool {
	for e := range tree(err) {
		if ownKind(e) == kind {
			return true
		}
	}
	return false
}

// HintOf returns what to do about err, "" if nothing is known: the hint of a bug in it, else
// the outermost hint, else the outermost of a sentinel. Of errors that are joined the first
// counts as the outermost.
func HintOf(err error) string {
	var own, general string
	for e := range tree(err) {
		hint, isGeneral := ownHint(e)
		switch {
		case hint == "":
		case ownKind(e) == Bug:
			return hint
		case isGeneral && general == "":
			general = hint
		case !isGeneral && own == "":
			own = hint
		}
	}
	if own != "" {
		return own
	}
	return general
}

func ownKind(err error) Kind {
	if k, ok := err.(interface{ Kind() Kind }); ok {
		return k.Kind()
	}
	return Other
}

func ownHint(err error) (hint string, general bool) {
	switch e := err.(type) {
	case *failure:
		return e.hint, e.general
	case interface{ Hint() string }:
		return e.Hint(), false
	}
	return "", false
}

// tree is err and its causes, in the order in which errors.As looks at them.
func tree(err error) iter.Seq[error] {
	return func(yield func(error) bool) { walk(err, yield) }
}

func walk(err error, yield func(error) bool) bool {
	if err == nil {
		return true
	}
	if !yield(err) {
		return false
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return walk(e.Unwrap(), yield)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			if !walk(cause, yield) {
				return false
			}
		}
	}
	return true
}
