package testsite

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// AllFaults says that every case is to be run, as make faults does, and not the
// shorter cut of make test.
func AllFaults() bool { return os.Getenv("VIRTBACKUP_FAULTS") == "all" }

// NewSeed is the seed of a randomised test, which its log has: the time, or
// VIRTBACKUP_SEED to repeat a run.
func NewSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("VIRTBACKUP_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("VIRTBACKUP_SEED: %v", err)
		}
	}
	t.Logf("VIRTBACKUP_SEED=%d", seed)
	return seed
}
