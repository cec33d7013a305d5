package panics

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func wantPanic(t *testing.T, err error, value string) {
	t.Helper()
	var p *Error
	if !errors.As(err, &p) || err.Error() != "internal error: "+value || !strings.Contains(string(p.Stack), "panics_test.go") {
		t.Errorf("%v, want the panic and its place", err)
	}
}

func TestCatch(t *testing.T) {
	want := errors.New("an error")
	if err := Catch(func() error { return want }); err != want {
		t.Errorf("%v, want %v", err, want)
	}
	wantPanic(t, Catch(func() error { panic("out of my depth") }), "out of my depth")
	if Last() == nil {
		t.Error("the panic is not remembered")
	}
}

func TestGo(t *testing.T) {
	if err := <-Go(func() error { return nil }); err != nil {
		t.Error(err)
	}
	wantPanic(t, <-Go(func() error { panic("alone") }), "alone")
}

// A panic of one goroutine ends the others, and is what Wait returns.
func TestGroup(t *testing.T) {
	group, ctx := WithContext(context.Background())
	group.SetLimit(2)
	group.Go(func() error {
		<-ctx.Done()
		return context.Cause(ctx)
	})
	group.Go(func() error { panic("among others") })
	wantPanic(t, group.Wait(), "among others")

	var zero Group
	zero.Go(func() error { panic("without a context") })
	wantPanic(t, zero.Wait(), "without a context")
}

// closer counts, and panics.
type closer chan bool

func (c closer) Close() error {
	c <- true
	panic("close")
}

// What is to be closed is closed once, when the context is done, and not after stop.
func TestCloseAfter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	closed := make(closer, 2)
	CloseAfter(ctx, closed)
	if stop := CloseAfter(ctx, closed); !stop() {
		t.Error("stopped too late")
	}
	cancel()
	<-closed
	if len(closed) != 0 {
		t.Error("closed twice")
	}
}
