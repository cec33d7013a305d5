package verify

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// With a limit of time one point is read after another, those first that were never, and then
// those read longest ago; a run that is ended goes on with the next.
func TestMaxDuration(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	hide(t, r, "check1")
	for i, want := range []string{"check1", "check2", "check3", "diff4", "copy5", "check1", "check2"} {
		report := verified(t, r, Request{MaxDuration: 1})
		var checked []string
		for _, p := range report.Domains[0].Points {
			if p.Status != NotChecked {
				checked = append(checked, p.ID)
			}
		}
		if len(checked) != 1 || checked[0] != want || len(report.Domains[0].Left) != 4 || slices.Contains(report.Domains[0].Left, want) {
			t.Errorf("run %d: checked %v, want %s; left %v", i, checked, want, report.Domains[0].Left)
		}
		if !slices.Contains(report.Warnings, "4 points are left: the next run begins with them") {
			t.Errorf("run %d: no warning of what is left: %q", i, report.Warnings)
		}
		if noted := r.Verified("vm1"); len(noted) != min(i+1, 5) {
			t.Errorf("run %d: noted %v", i, noted)
		}
	}
	report := verified(t, r, Request{MaxDuration: time.Hour})
	if got := outcome(report.Domains[0]); got != "check1 ok, check2 ok, check3 ok, diff4 ok, copy5 ok" || len(report.Domains[0].Left) > 0 || len(report.Domains[0].Restores) != 4 {
		t.Errorf("%s, %+v", got, report.Domains[0])
	}
	if slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.Contains(w, "left") }) {
		t.Errorf("nothing is left: %q", report.Warnings)
	}
	known := r.Verified("vm1")
	if known["check3"].Time.After(known["check2"].Time) || known["check2"].Time.After(known["check1"].Time) {
		t.Errorf("a point is verified no longer than what it needs: %v", known)
	}
}

// A run that is ended between two points was not for nothing.
func TestEndedRunGoesOn(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("killed")
	log := slog.New(handler{slog.DiscardHandler, func(text string) {
		if strings.HasSuffix(text, "reading check3") {
			cancel(why)
		}
	}})
	if _, err := Run(ctx, r, Request{MaxDuration: time.Hour, Sample: 100, Log: log}); !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
	if noted := r.Verified("vm1"); len(noted) != 2 || !noted["check1"].Sound || !noted["check2"].Sound {
		t.Errorf("noted %v", noted)
	}
	if report := verified(t, r, Request{MaxDuration: 1}); !slices.Equal(report.Domains[0].Left, []string{"check1", "check2", "diff4", "copy5"}) {
		t.Errorf("left %v", report.Domains[0].Left)
	}
}

// handler calls a function with each message.
type handler struct {
	slog.Handler
	each func(string)
}

func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func (h handler) Handle(_ context.Context, r slog.Record) error {
	h.each(r.Message)
	return nil
}

// Of two runs at the same time, neither loses what the other has noted.
func TestRunsSideBySide(t *testing.T) {
	withoutQemuImg(t)
	r := site(t)
	for range 5 {
		var both sync.WaitGroup
		for _, id := range []string{"check1", "copy5"} {
			both.Go(func() {
				if report, err := Run(context.Background(), r, Request{Domain: "vm1", Point: id, Sample: 20}); err != nil || report.Err() != nil {
					t.Errorf("%v, %v", err, report.Damage)
				}
			})
		}
		both.Wait()
	}
	if noted := r.Verified("vm1"); len(noted) != 2 || !noted["check1"].Sound || !noted["copy5"].Sound {
		t.Errorf("noted %v", noted)
	}
}
