package terminal

import (
	"fmt"
	"strings"
	"unicode"
)

// Plain lets no text steer a terminal: names and reasons come out of the repository, which
// others may be able to write to. It replaces control characters, those that turn the
// direction of text, and what is no UTF-8 by \uXXXX, which JSON reads as what it was.
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

// steers tells of a newline that it is harmless: text may have several lines.
func steers(c rune) bool {
	return c != '\n' && unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) || c == unicode.ReplacementChar
}
