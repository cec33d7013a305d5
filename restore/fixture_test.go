package restore

import (
	"encoding/binary"
	"strconv"
	"testing"
	"time"

	"github.com/virtbackup/virtbackup/manifest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// offsetOf is the offset in an entry of an L1 or L2 table.
func offsetOf(entry []byte) int64 {
	return int64(binary.BigEndian.Uint64(entry) & 0x00fffffffffffe00)
}

// testManifest is that of a full point without disks.
func testManifest(id string) manifest.Manifest {
	n, _ := strconv.Atoi(id[len("check"):])
	return manifest.Manifest{ID: id, Kind: manifest.KindFull, Domain: "vm1", DomainUUID: "11111111-2222-3333-4444-555555555555",
		Time: time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC), Consistency: manifest.ConsistencyCrash}
}
