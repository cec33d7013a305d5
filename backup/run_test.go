package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/panics"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
)

var errBoom = errors.New("boom")

// fake makes n steps that record in did what is done and undone. The step with the number
// bad ends as how says.
func fake(n, bad int, how func(*run) error, did *[]string) []step {
	var all []step
	for i := range n {
		all = append(all, step{
			name: fmt.Sprint(i),
			do: func(r *run, _ context.Context) error {
				*did = append(*did, fmt.Sprintf("+%d", i))
				if i == bad {
					return how(r)
				}
				return nil
			},
			undo: func(_ *run, ctx context.Context) error {
				*did = append(*did, fmt.Sprintf("-%d", i))
				return ctx.Err()
			},
		})
	}
	return all
}

// Whichever step fails, and however, all undos run in reverse order, including that of the
// failed step.
func TestTakeUndoes(t *testing.T) {
	for bad := range 5 {
		want := ""
		for i := range bad + 1 {
			want += fmt.Sprintf("+%d", i)
		}
		for i := range bad + 1 {
			want += fmt.Sprintf("-%d", bad-i)
		}
		t.Run(fmt.Sprintf("error in step %d", bad), func(t *testing.T) {
			var did []string
			err := newRun().execute(context.Background(), fake(5, bad, func(*run) error { return errBoom }, &did))
			if got := strings.Join(did, ""); got != want || !errors.Is(err, errBoom) {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
		t.Run(fmt.Sprintf("panic in step %d", bad), func(t *testing.T) {
			var did []string
			err := newRun().execute(context.Background(), fake(5, bad, func(*run) error { panic(errBoom) }, &did))
			var p *panics.Error
			if got := strings.Join(did, ""); got != want || !errors.As(err, &p) || p.Value != errBoom {
				t.Errorf("got %s, %v, want %s and the panic", got, err, want)
			}
		})
		t.Run(fmt.Sprintf("signal in step %d", bad), func(t *testing.T) {
			var did []string
			ctx, cancel := context.WithCancelCause(context.Background())
			// The step itself may still succeed. The undos get a context that is
			// not cancelled.
			steps := fake(6, bad, func(*run) error { cancel(errBoom); return nil }, &did)
			err := newRun().execute(ctx, steps)
			if got := strings.Join(did, ""); got != want || !errors.Is(err, errBoom) || strings.Contains(err.Error(), "clean up") {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		})
	}
}

func TestTakeUndoesAfterSuccess(t *testing.T) {
	var did []string
	if err := newRun().execute(context.Background(), fake(3, -1, nil, &did)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(did, ""); got != "+0+1+2-2-1-0" {
		t.Errorf("got %s", got)
	}
}

// If an undo fails, the others still run, and its error is returned.
func TestTakeGoesOnAfterABadUndo(t *testing.T) {
	var did []string
	steps := fake(3, 2, func(*run) error { return errBoom }, &did)
	bad := errors.New("bad undo")
	steps[1].undo = func(*run, context.Context) error { return bad }
	steps[2].undo = nil
	err := newRun().execute(context.Background(), steps)
	if got := strings.Join(did, ""); got != "+0+1+2-0" || !errors.Is(err, errBoom) || !errors.Is(err, bad) || !strings.Contains(err.Error(), "clean up: bad undo") {
		t.Errorf("got %s, %v", got, err)
	}
}

// Once its point is sealed a run has succeeded: neither a signal nor a failed undo makes it
// return an error.
func TestTakeAfterTheSeal(t *testing.T) {
	var did []string
	r := newRun()
	ctx, cancel := context.WithCancelCause(context.Background())
	steps := fake(3, 1, func(r *run) error { r.sealed = true; cancel(errBoom); return nil }, &did)
	steps[0].undo = func(*run, context.Context) error { return errors.New("bad undo") }
	err := r.execute(ctx, steps)
	if got := strings.Join(did, ""); got != "+0+1+2-2-1" || err != nil || !slices.Equal(r.result.Warnings, []string{"clean up: bad undo"}) {
		t.Errorf("got %s, %v, warnings %q", got, err, r.result.Warnings)
	}
}

// Nor does a panic: its point is listed, and its checkpoint exists. The program's exit code
// shows the panic.
func TestTakeAfterAPanicBehindTheSeal(t *testing.T) {
	for _, bad := range []int{1, 2} {
		var did []string
		r := newRun()
		steps := fake(4, bad, func(r *run) error { r.sealed = true; panic(errBoom) }, &did)
		err := r.execute(context.Background(), steps)
		if got := strings.Join(did, ""); got != "+0+1+2+3-3-2-1-0" || err != nil || len(r.result.Warnings) != 1 || !strings.Contains(r.result.Warnings[0], "internal error: boom") {
			t.Errorf("got %s, %v, warnings %q", got, err, r.result.Warnings)
		}
	}
}

// Each step that changes something outside has its undo beside it, in the order that the
// undos need: the job is undone before the partial point, the lock after both, and the
// repository last.
func TestSteps(t *testing.T) {
	var names, undos []string
	for _, s := range steps {
		names = append(names, s.name)
		if s.undo != nil {
			undos = append(undos, s.name)
		}
	}
	if got := strings.Join(names, " "); got != "find open lock recover idle plan parents space issue reserve directories still idle freeze begin thaw tails copy end seal checkpoint retire" {
		t.Errorf("steps: %s", got)
	}
	if got := strings.Join(undos, " "); got != "open lock issue reserve directories freeze begin" {
		t.Errorf("steps with undo: %s", got)
	}
}

// Undos do nothing if the run has not reached their step.
func TestUndosOfNothing(t *testing.T) {
	if err := newRun().undo(context.Background(), steps); err != nil {
		t.Error(err)
	}
}

// newRun is a run without a domain.
func newRun() *run { return newRunWith(source.Options{}) }

func newRunWith(options source.Options) *run {
	r := &run{Request: Request{Wanted: plan.Wanted{Domain: "vm1"}, Options: options}.withDefaults()}
	r.source = pull.New(&guest.LockedDomain{Domain: &hypervisor.Domain{}}, r.Options, r.warnOnce)
	return r
}
