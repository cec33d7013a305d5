// Package testdomain gives tests what they work on: throwaway libvirt domains
// with disks of every kind, without an operating system or with a real Linux
// guest; writes through QEMU's own block layer; copies of the truth; the
// virtbackup program itself; and the judges, which are never our own code
// (qemu-img, e2fsck, debugfs).
//
// Everything that it makes is named vbtest-PID-… and removed by t.Cleanup. [Main] looks for
// leftovers when all tests of a package have run.
//
// It imports nothing of ours, so that tests of any package may use it.
package testdomain
