package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestAskYes(t *testing.T) {
	for input, want := range map[string]bool{"yes\n": true, "Y\n": true, "no\n": false, "\n": false, "": false, "yes": true, "perhaps\nyes\n": true, "perhaps": false} {
		var out bytes.Buffer
		got, err := askYes(context.Background(), &out, strings.NewReader(input), "Overwrite?")
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", input, got, err)
		}
		if n := strings.Count(out.String(), "[yes/no]"); n != 1+strings.Count(input, "\nyes") {
			t.Errorf("%q: asked %d times", input, n)
		}
	}
	if _, err := askYes(context.Background(), io.Discard, failingReader{}, "Overwrite?"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Nobody answers, and the run is to end.
func TestAskYesCancelled(t *testing.T) {
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(stop)
	in, out := io.Pipe()
	defer out.Close()
	if _, err := askYes(ctx, io.Discard, in, "Overwrite?"); !errors.Is(err, stop) {
		t.Error(err)
	}
}
