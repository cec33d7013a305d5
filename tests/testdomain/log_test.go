package testdomain

import (
	"os"
	"path/filepath"
	"testing"
)

// A position in a log may be in the middle of a line that QEMU prints about something else.
func TestLogInMidLine(t *testing.T) {
	for _, c := range []struct{ before, after, want string }{
		{"", "wrote\nmark", "wrote\n"},
		{"older\n", "wrote\nmark", "wrote\n"},
		{"older\nqemu: ", "Disconnect client, due to: Failed to send\nwrote\nmark", "wrote\n"},
		{"qemu: Discon", "nect\nmark", ""},
	} {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		place := readLog(file)
		if err := os.WriteFile(file, []byte(c.before+c.after), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := place.until("mark"); got != c.want || err != nil {
			t.Errorf("%q, then %q: got %q, %v", c.before, c.after, got, err)
		}
	}
}
