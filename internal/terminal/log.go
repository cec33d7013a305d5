package terminal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// NewLogger returns a logger that writes one line for each record of this level or above.
// With the attribute [DomainKey] its lines begin with the name of the domain.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(&lineHandler{mu: new(sync.Mutex), w: w, level: level})
}

// DomainKey is the attribute for the domain that a record is about.
const DomainKey = "domain"

// lineHandler writes records as plain lines. They have no time, because people watch, and
// the journal adds its own.
type lineHandler struct {
	mu     *sync.Mutex // of w
	w      io.Writer
	level  slog.Level
	domain string // "" if there is only one
}

// Enabled reports whether records of this level are written.
func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

// Handle writes one record.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	prefix := ""
	if r.Level >= slog.LevelWarn {
		prefix = "warning: "
	}
	if h.domain != "" {
		prefix += h.domain + ": "
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintf(h.w, "%s\n", Plain(prefix+r.Message))
	return err
}

// WithAttrs takes the domain and ignores other attributes: messages are whole sentences.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	for _, a := range attrs {
		if a.Key == DomainKey {
			with.domain = a.Value.String()
		}
	}
	return &with
}

// WithGroup is not used.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
