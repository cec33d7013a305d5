package guestfs

import (
	"bytes"
	"strings"
	"sync"
)

// tail keeps the last of what guestfish writes to its standard error.
type tail struct {
	mu   sync.Mutex
	kept bytes.Buffer
}

const tailBytes = 8 << 10

// Write implements io.Writer. It never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept.Write(p)
	if over := t.kept.Len() - tailBytes; over > 0 {
		t.kept.Next(over)
	}
	return len(p), nil
}

// advice are lines of libguestfs for people who use it themselves.
var advice = []string{
	"This usually means", "Do:", "export LIBGUESTFS", "and run the command again", "http://libguestfs.org", "You can also run",
	"into a bug report", "To see full error messages",
}

// said is what the errors say, on one line.
func (t *tail) said() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var kept []string
	for line := range strings.Lines(t.kept.String()) {
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
