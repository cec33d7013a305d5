package terminal

import (
	"testing"
)

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"vm1\n├─ Größe\n": "vm1\n├─ Größe\n",
		"\x1b[2J":         `\u001b[2J`,
		"a\tb\rc\x7f":     `a\u0009b\u000dc\u007f`,
		"\u009b31m":       `\u009b31m`,
		"\u202eevil":      `\u202eevil`,
		"\x9b\xff":        `\ufffd\ufffd`,
	} {
		if got := Plain(text); got != want {
			t.Errorf("%q is printed as %q, want %q", text, got, want)
		}
	}
}
