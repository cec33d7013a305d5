// Package guestfs reads the files of a point, with libguestfs: the point's disks are served over
// NBD (package serve) to an appliance, a small virtual machine in which a Linux kernel mounts the
// guest's file systems. What a guest has written reaches neither the kernel of this host nor a
// program that parses file systems here.
//
// The appliance is driven through one guestfish, whose commands and answers are in guestfish.go.
// Names and contents come from the guest, and are hostile: no name can become another command
// (command), and what is copied out stays in one directory (extraction).
//
// Every byte of the disks is compared with its hash before the appliance gets it. Where a disk is
// damaged the appliance gets an I/O error, and whatever it made of that, the error of the whole is
// of fail.Damaged.
package guestfs
