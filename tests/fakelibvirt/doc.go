// Package fakelibvirt is a host with domains in memory: as much of libvirt and QEMU as
// package guest asks of them, so that runs, recoveries and releases can be tested without a
// daemon. Its contract test runs on real libvirt, too.
//
// Disks are bytes in memory, in clusters of 64 KiB, of which the last one may be cut short. A checkpoint is one dirty bitmap for each
// of its disks; a backup job shows the disks as they were when it began.
package fakelibvirt
