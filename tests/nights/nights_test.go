package nights

import (
	"os"
	"strconv"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testsite"
)

// shortNights is how many nights each domain lives in make test.
const shortNights = 25

// isShort says that this is make test: NIGHTS is not set.
func isShort() bool { return os.Getenv("NIGHTS") == "" }

// nights is how many nights each domain lives: NIGHTS (make nights: 400).
func nights(t *testing.T) int {
	t.Helper()
	text := os.Getenv("NIGHTS")
	if text == "" {
		return shortNights
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("NIGHTS=%q is no number of nights", text)
	}
	return n
}

// Night after night, whatever is written, resized, attached and detached, however points are
// made and removed, and whatever is killed: each point that is listed is what the disks were,
// what the policy has to keep is there, and what it does not keep is gone or will not be much.
func TestNights(t *testing.T) {
	seed := testsite.NewSeed(t)
	var n numbers
	t.Run("lanes", func(t *testing.T) {
		for k, kind := range []string{"ext4", "xfs"} {
			for i, p := range policies(isShort()) {
				if isShort() && (uint64(i+k)+seed)%2 > 0 {
					continue // in make test each policy has one file system, another one by the seed
				}
				t.Run(kind+"/"+p.name, func(t *testing.T) {
					t.Parallel()
					l := newLane(t, newFilesystem(t, kind, 3072), p, seed+uint64(i), &n)
					for range nights(t) {
						l.pass()
						if l.night%50 == 0 {
							l.checkAll()
						}
					}
					l.checkAll()
				})
			}
		}
	})
	t.Log(&n)
}
