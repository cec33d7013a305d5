package testdomain

import (
	"os"
	"testing"
	"time"
)

// Soak is how long a test with random input may go on: 0, its usual length,
// unless VIRTBACKUP_SOAK (make soak) says longer.
func Soak(t testing.TB) time.Duration {
	t.Helper()
	text := os.Getenv("VIRTBACKUP_SOAK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("VIRTBACKUP_SOAK: %v", err)
	}
	return d
}
