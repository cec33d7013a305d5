package panics

import (
	"errors"
	"strings"
	"testing"
)

func TestCaught(t *testing.T) {
	want := errors.New("an error")
	if err := Caught(func() error { return want })(); err != want {
		t.Errorf("%v, want %v", err, want)
	}
	err := Caught(func() error { panic("out of my depth") })()
	var p *Error
	if !errors.As(err, &p) || !strings.Contains(err.Error(), "out of my depth") || !strings.Contains(err.Error(), "panics_test.go") {
		t.Errorf("%v, want the panic and its place", err)
	}
}
