package guestfs

import "strings"

// keptErrors is how much is kept of what guestfish writes to its standard error, in bytes.
const keptErrors = 8 << 10

// advice are lines of libguestfs for people who use it themselves.
var advice = []string{
	"This usually means", "Do:", "export LIBGUESTFS", "and run the command again", "http://libguestfs.org", "You can also run",
	"into a bug report", "To see full error messages",
}

// said is what errors say, on one line.
func said(errors string) string {
	var kept []string
	for line := range strings.Lines(errors) {
		line = strings.TrimSpace(line)
		if _, text, ok := strings.Cut(line, "libguestfs: error: "); ok {
			line = "libguestfs: " + text
		}
		if line != "" && !isAdvice(line) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "; ")
}

func isAdvice(line string) bool {
	for _, a := range advice {
		if strings.HasPrefix(line, a) {
			return true
		}
	}
	return false
}
