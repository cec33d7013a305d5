package terminal

import (
	"bytes"
	"log/slog"
	"testing"
)

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	log := NewLogger(&b, slog.LevelInfo)
	for _, l := range []*slog.Logger{log, log.With(DomainKey, "vm1"), log.With(DomainKey, "vm\x1b2", "other", 1)} {
		l.Debug("not said")
		l.Info("inc check2")
		l.Warn("the agent does not answer")
	}
	const want = `inc check2
warning: the agent does not answer
vm1: inc check2
warning: vm1: the agent does not answer
vm\u001b2: inc check2
warning: vm\u001b2: the agent does not answer
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
