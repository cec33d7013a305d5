package terminal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// NewLogger returns a log for people: a line for each record of this level or above.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&lineHandler{w: w, level: level})
}

// lineHandler writes a record as a plain line. There is no time: people watch,
// and the journal adds its own.
type lineHandler struct {
	mu    sync.Mutex
	w     io.Writer
	level slog.Level
}

// Enabled tells whether records of this level are written.
func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// Handle writes one record.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	prefix := ""
	if r.Level >= slog.LevelWarn {
		prefix = "warning: "
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintf(h.w, "%s%s\n", prefix, Plain(r.Message))
	return err
}

// WithAttrs is not used: messages are whole sentences.
func (h *lineHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup is not used.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
