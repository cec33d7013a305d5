package backup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/retention"
	"github.com/virtbackup/virtbackup/source"
)

func TestValidate(t *testing.T) {
	for want, r := range map[string]Request{
		"--fallback is":  {Wanted: plan.Wanted{Kind: manifest.KindInc, Fallback: "maybe"}},
		"--quiesce is":   {Wanted: plan.Wanted{Kind: manifest.KindFull}, Options: source.Options{Quiesce: "maybe"}},
		"may have 56":    {Wanted: plan.Wanted{Kind: manifest.KindFull}, Options: source.Options{SocketDir: "/" + strings.Repeat("x", 60)}},
		"-1 checkpoints": {Wanted: plan.Wanted{Kind: manifest.KindInc}, KeepCheckpoints: -1},
	} {
		err := r.Validate()
		if !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), want) || fail.HintOf(err) == "" {
			t.Errorf("got %v, want %q and a hint", err, want)
		}
	}
	if err := (Request{Wanted: plan.Wanted{Kind: plan.Auto}}).Validate(); err != nil {
		t.Error(err)
	}
}

// A run looks at the host's clock, and hands on what is to be made standalone.
func TestFullEveryOfARun(t *testing.T) {
	s := newFakeSite(t)
	m := s.must(manifest.KindFull).Point
	m.Time = m.Time.AddDate(0, 0, -100)
	data, err := manifest.Encode(m)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.repo, "vm1", m.ID, manifest.FileName), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		days      int
		synthetic bool
		want      manifest.Kind
	}{{101, false, manifest.KindInc}, {101, true, manifest.KindInc}, {99, true, manifest.KindInc}, {99, false, manifest.KindFull}, {99, false, manifest.KindInc}} {
		r := s.request(plan.Auto)
		r.FullEvery, r.Synthetic = retention.Span{Days: tt.days}, tt.synthetic
		s.change()
		got, err := s.run(t.Context(), r, steps)
		if err != nil || got.point.Kind != tt.want || (got.result.Standalone != "") != (tt.synthetic && tt.days < 100) {
			t.Errorf("%d days, synthetic %v: %s, %q, standalone because of %q, %v", tt.days, tt.synthetic, got.point.Kind, got.result.Why, got.result.Standalone, err)
		}
	}
}
