// Package bench measures virtbackup against every other way to do the same
// work, on real libvirt and QEMU: make bench. Without VIRTBACKUP_BENCH=full it
// runs small and without a verdict, so that it cannot rot.
//
//	VIRTBACKUP_BENCH=full       sizes and rounds that mean something
//	VIRTBACKUP_BENCH_ROUNDS=5   how often each contestant runs
//	VIRTBACKUP_BENCH_ONLY=RE    only the rows that match: 'a/tmpfs/(full|nbdcopy)'
//
// A row is named SOURCE/PLACE/CONTESTANT. The sources are those of
// scenarios_test.go; the place is where the source lies: tmpfs or disk, or slow,
// the model of device_test.go. The targets are always on the disk. The repositories of
// prune_test.go lie at their place: the disk, or a file system of their own. How it is made
// fair:
//
//   - The time of every contestant ends when its result is on stable storage.
//   - The contestants take turns, each round in another order.
//   - Before each turn all dirty pages are written, and the pages of the source
//     are dropped. Targets are new files, removed afterwards.
//   - Contestants that read NBD find the backup job begun, which is not timed.
//     virtbackup and virtnbdbackup begin and end it themselves, which is.
//   - Results are compared with the source, once for each contestant.
package bench

import (
	"os"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(child(role, os.Args[1:]))
	}
	sweepMemory()
	testdomain.Main(m)
}
