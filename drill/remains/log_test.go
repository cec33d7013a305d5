package remains

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Why a QEMU has ended stands at the end of its log, as libvirt 9.0.0 writes it.
func TestFailedBy(t *testing.T) {
	const when, other = "2026-11-30 18:39:15.943+0000: ", "qemu-system-x86_64: terminating on signal 15 from pid 7 (/usr/sbin/libvirtd)\n"
	path := filepath.Join(t.TempDir(), "log")
	for text, want := range map[string]bool{
		"":    false,
		other: false,
		other + when + "shutting down, reason=crashed\n":                                             true,
		strings.Repeat(other, 1000) + when + "shutting down, reason=failed\n":                        true,
		when + "shutting down, reason=daemon\n":                                                      true,
		when + "shutting down, reason=shutdown\n":                                                    false,
		when + "shutting down, reason=destroyed\n":                                                   false,
		when + "shutting down, reason=crashed\n" + other + when + "shutting down, reason=shutdown\n": false,
		"qemu: a guest says shutting down, reason=crashed\n":                                         false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := failedBy(path); got != want || err != nil {
			t.Errorf("%q: %v, %v", text[max(0, len(text)-60):], got, err)
		}
	}
	if got, err := failedBy(filepath.Join(t.TempDir(), "none")); got || err != nil {
		t.Errorf("without a log: %v, %v", got, err)
	}
}
