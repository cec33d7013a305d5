// Package merge makes one image of a run of images that are chained onto each other, so
// that the points in between can be deleted, or so that a point no longer needs those
// before it.
//
// It is given the files as links. Which points are merged is package prune's to decide; the
// new image gets its place there, too.
package merge

import (
	"github.com/virtbackup/virtbackup/diskimage"
	"github.com/virtbackup/virtbackup/hashlist"
	"github.com/virtbackup/virtbackup/internal/limit"
)

// Run is a run of images of one disk that become one.
type Run struct {
	// Links are the images, base first. The last one is the target's own: the result
	// shows what it shows, and has its virtual size.
	Links []diskimage.Link
	// Below are the images that the lowest of Links is chained onto, base first. None:
	// the result is standalone.
	Below []diskimage.Link
}

// Options are callbacks and limits. The zero value works.
type Options struct {
	// Warn, if set, is called with a message for what was read wrong once, and for hash
	// lists that are damaged.
	Warn func(message string)
	// Limits bound the bytes of guest data that are copied per second; nil: no limit.
	Limits *limit.Limits
	// Progress, if set, is called with how many bytes of guest data were copied so far,
	// from several goroutines.
	Progress func(bytes int64)
}

// Stats say what the result holds.
type Stats struct {
	DataBytes  int64  // guest bytes in data clusters
	ZeroBytes  int64  // guest bytes in zero clusters
	ImageBytes int64  // length of the image
	Hashes     string // digest of its hash list
	Written    int64  // bytes of image and list that were written; the rest was cloned
	// Changed are the ranges of the image that were written, or cloned from another image
	// than the lowest, for reading back what storage has kept.
	Changed []hashlist.Range
}

func (r Run) target() diskimage.Link { return r.Links[len(r.Links)-1] }

// parent is the backing file of the result; "" for a standalone one.
func (r Run) parent() string { return r.Links[0].Disk.Parent }

func (o Options) readOptions() hashlist.ReadOptions { return hashlist.ReadOptions{Warn: o.Warn} }
