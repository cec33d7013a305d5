// Package panics is the one place where goroutines start. Their panics become
// errors: without that a panic ends the process at once, and a libvirt job, a
// checkpoint or a frozen guest stays behind.
//
// A goroutine starts with [Go] or in a [Group]; the caller waits for both.
// TestGoroutines finds every other way to start one in this repository.
package panics

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/virtbackup/virtbackup/internal/fail"
)

// Error is a panic as an error, with the stack of the goroutine it was in.
type Error struct {
	Value any
	Stack []byte // as of debug.Stack; not part of Error's text
}

// Error gives the panic's value; Stack says where it was.
func (e *Error) Error() string { return fmt.Sprintf("internal error: %v", e.Value) }

// Kind is fail.Bug.
func (e *Error) Kind() fail.Kind { return fail.Bug }

// Hint asks for a report.
func (e *Error) Hint() string {
	return "this is a bug, please report it with virtbackup --version and what stands on standard error"
}

var last atomic.Pointer[Error]

// Last is the newest panic that was caught in this process, nil if there was none:
// errors on their way to main may become warnings, a bug may not.
func Last() *Error { return last.Load() }

// Catch runs f. A panic of it is returned as an *Error.
func Catch(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			caught := &Error{Value: v, Stack: debug.Stack()}
			last.Store(caught)
			err = caught
		}
	}()
	return f()
}

// Go runs f in a goroutine of its own. The channel gets its error, or its panic, once;
// a caller that gives up on f need not read it.
func Go(f func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- Catch(f) }()
	return done
}

// CloseAfter closes c when ctx is done, on a goroutine of its own, unless stop was called before. Errors
// are those of who uses c.
func CloseAfter(ctx context.Context, c io.Closer) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = Catch(c.Close) })
}

// Group is an errgroup.Group in which a panic is an error like others. The zero Group
// works, and cancels nothing.
type Group errgroup.Group

// WithContext returns a Group, and a context that is cancelled by the first error of it,
// or when Wait returns.
func WithContext(ctx context.Context) (*Group, context.Context) {
	group, ctx := errgroup.WithContext(ctx)
	return (*Group)(group), ctx
}

// SetLimit bounds how many goroutines of the group run at a time; at the limit Go waits.
func (g *Group) SetLimit(n int) { (*errgroup.Group)(g).SetLimit(n) }

// Go runs f in a goroutine of the group.
func (g *Group) Go(f func() error) {
	(*errgroup.Group)(g).Go(func() error { return Catch(f) })
}

// Wait waits for all goroutines of the group, and returns the first error.
func (g *Group) Wait() error { return (*errgroup.Group)(g).Wait() }
