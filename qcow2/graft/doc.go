// Package graft changes a qcow2 image that was made by package qcow2, or by this one before:
// it puts clusters into it, drops others, and gives it another size. It moves none of what
// stays, so that the cost is set by what changes, not by the image.
//
// It allocates host clusters and writes tables, refcounts and compressed clusters. The data
// of clusters that are not compressed is the caller's to put where it says.
package graft
