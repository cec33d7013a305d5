// Package inplace puts the disks of a domain back to what they were at a restore point, in
// the images that the domain has: it finds out which clusters differ, and writes only these.
//
//	choose → refuse → save the present state → find what differs → ask → write
//
// Nothing is written before all that will be written has been proven. Writing goes in this
// order, with a flush between the steps:
//
//	first MiB := zeros | resize | all other clusters that differ | first MiB
//
// so that a disk that is half restored does not boot; autostart is off meanwhile. A mark in the
// domain's directory of the repository tells the next restore what a killed one was at.
//
// qcow2 images are written through QEMU, so that every dirty bitmap in them stays true, those of
// other tools included; raw files and block devices are written directly.
package inplace
