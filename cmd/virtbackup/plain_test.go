package main

import (
	"bytes"
	"encoding/json"
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
		if got := plain(text); got != want {
			t.Errorf("%q is printed as %q, want %q", text, got, want)
		}
	}
}

// JSON stays JSON, and says the same.
func TestPlainJSON(t *testing.T) {
	const text = "\x1b[2J\u009b\x7f\u202e\n"
	var out bytes.Buffer
	if err := printJSON(newScreen(&out), text); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != text {
		t.Errorf("%s is read as %q: %v", out.String(), got, err)
	}
}
