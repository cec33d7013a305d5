package terminal

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

// What is not a terminal gets each byte.
func TestExact(t *testing.T) {
	var b bytes.Buffer
	screen := NewScreen(&b)
	const hostile = "a\x1b[2J\xff\x00b"
	if _, err := Exact(screen).Write([]byte(hostile)); err != nil || b.String() != hostile || !screen.Used() {
		t.Errorf("%q, %v, used: %t", b.String(), err, screen.Used())
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	var output *OutputError
	if _, err := Exact(NewScreen(w)).Write([]byte("x")); !errors.As(err, &output) {
		t.Errorf("%v is not an error of the output", err)
	}
}

// Characters that come in parts stay whole, and what steers a terminal does not reach it.
func TestWholeRunes(t *testing.T) {
	const text = "zwölf € 𝄞\n"
	for size := 1; size < 6; size++ {
		var b bytes.Buffer
		w := &wholeRunes{w: NewScreen(&b)}
		for rest := []byte(text + "\x1b\xff\xffx"); len(rest) > 0; {
			n := min(size, len(rest))
			if got, err := w.Write(rest[:n]); got != n || err != nil {
				t.Fatal(got, err)
			}
			rest = rest[n:]
		}
		if got := b.String(); got != text+`\u001b\ufffd\ufffdx` {
			t.Errorf("in parts of %d: %q", size, got)
		}
	}
}
