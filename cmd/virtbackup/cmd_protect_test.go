package main

import (
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/internal/fail"
)

func TestCheckNote(t *testing.T) {
	for _, note := range []string{"", "before the migration", "vor dem Umzug: ä ö ü", "移行前", strings.Repeat("x", maxNote)} {
		if err := checkNote(note); err != nil {
			t.Errorf("%q: %v", note, err)
		}
	}
	for _, note := range []string{"two\nlines", "\x1b[2J", "tab\t", "\u202eback", "\xff", "\x00", strings.Repeat("x", maxNote+1)} {
		if err := checkNote(note); !fail.Is(err, fail.Usage) || fail.HintOf(err) == "" {
			t.Errorf("%q: %v", note, err)
		}
	}
}
