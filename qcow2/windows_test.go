package qcow2

import (
	"errors"
	"testing"
)

// An error is not kept: a window is looked up again.
func TestWindowsForgetErrors(t *testing.T) {
	var ws windows
	failure, looks := errors.New("not now"), 0
	look := func() (*Window, error) {
		if looks++; looks == 1 {
			return nil, failure
		}
		return &Window{}, nil
	}
	if _, err := ws.get(3, look); err != failure {
		t.Errorf("got %v", err)
	}
	for range 2 {
		if w, err := ws.get(3, look); err != nil || w == nil {
			t.Errorf("after the error: %v", err)
		}
	}
	if looks != 2 {
		t.Errorf("looked up %d times", looks)
	}
}
