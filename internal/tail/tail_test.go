package tail

import (
	"fmt"
	"strings"
	"testing"
)

// The end is kept, whatever the writes are.
func TestWriter(t *testing.T) {
	for _, tt := range []struct {
		writes []string
		want   string
	}{
		{nil, ""},
		{[]string{"abc"}, "abc"},
		{[]string{"abc", "defgh"}, "abcdefgh"},
		{[]string{"abc", "defghi"}, "bcdefghi"},
		{[]string{strings.Repeat("x", 1000) + "12345678"}, "12345678"},
		{[]string{"äöüß", "x"}, "\uFFFDöüßx"}, // the cut is in the ä
	} {
		w := New(8)
		for _, s := range tt.writes {
			if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
				t.Errorf("%q: wrote %d, %v", s, n, err)
			}
		}
		if got := w.String(); got != tt.want {
			t.Errorf("%q: %q is kept, want %q", tt.writes, got, tt.want)
		}
	}
}

// Memory is bounded, however much is written; what is no text is shown as such.
func TestMuch(t *testing.T) {
	const limit = 16 << 10
	w := New(limit)
	for i := range 100000 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	if got := w.String(); len(got) > limit || !strings.HasSuffix(got, "\nline 99999\n") || w.kept.Cap() > 8*limit {
		t.Errorf("%d bytes are kept in %d: …%q", len(got), w.kept.Cap(), got[len(got)-20:])
	}
	_, _ = w.Write([]byte{0xff})
	if got := w.String(); !strings.HasSuffix(got, "\uFFFD") {
		t.Errorf("bytes that are no text: %q", got[len(got)-5:])
	}
}
