// Package reading reads a restore point: the disks' chains of images, so that nothing is
// read that was not compared with its hash; what a copy of them has not read; and the
// files beside the images. It writes nothing. Where the disks go is its callers' matter.
package reading
