package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/virtbackup/virtbackup/internal/terminal"
)

// JSON stays JSON, and says the same.
func TestPlainJSON(t *testing.T) {
	const text = "\x1b[2J\u009b\x7f\u202e\n"
	var out bytes.Buffer
	if err := printJSON(terminal.NewScreen(&out), text); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != text {
		t.Errorf("%s is read as %q: %v", out.String(), got, err)
	}
}
