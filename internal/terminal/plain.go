package terminal

import (
	"fmt"
	"strings"
	"unicode"
)

// Plain makes text safe to print on a terminal: names and reasons come from the repository,
// which others may be able to write to. It replaces control characters, characters that
// change the direction of text, and invalid UTF-8 with \uXXXX, the escape sequence of JSON.
func Plain(text string) string {
	if strings.IndexFunc(text, steers) < 0 {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if steers(c) {
			fmt.Fprintf(&b, `\u%04x`, c) // all below U+10000
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// steers reports whether c can change what a terminal shows elsewhere. A newline cannot:
// text may have several lines.
func steers(c rune) bool {
	return c != '\n' && unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == unicode.ReplacementChar
}
