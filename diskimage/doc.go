// Package diskimage has the image files of points: it writes them with their hash lists,
// compares them with those and with the manifest, and opens a chain of them so that nothing
// is read that was not proven.
//
// It is given the files of a chain as links. Which points there are and how they are chained
// is package repository's, what hashes prove is hashlist's, and the format of the images
// qcow2's.
package diskimage
