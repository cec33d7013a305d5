package backup

import "fmt"

// advice is what to do about an error; the command line prints it after "hint:".
type advice struct{ message, hint string }

func (e advice) Error() string { return e.message }

// Hint says what to do, or "".
func (e advice) Hint() string { return e.hint }

// UsageError is a request that cannot be carried out as it was worded.
type UsageError struct{ advice }

// NotFoundError says that a disk or point does not exist.
type NotFoundError struct{ advice }

func usageError(hint, format string, args ...any) error {
	return &UsageError{advice{fmt.Sprintf(format, args...), hint}}
}

func notFound(hint, format string, args ...any) error {
	return &NotFoundError{advice{fmt.Sprintf(format, args...), hint}}
}

// hintedError adds advice to a failure.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

// Hint says what to do.
func (e *hintedError) Hint() string { return e.hint }

func withHint(err error, format string, args ...any) error {
	return &hintedError{err, fmt.Sprintf(format, args...)}
}
