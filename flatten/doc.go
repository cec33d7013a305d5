// Package flatten reads chains of qcow2 images into an [extent.Sink]: Copy hands
// on what a chain holds, as a restore does, CopyFrames does so without unpacking what is
// compressed, as a merge does, and a [Comparer] passes on what differs from a chain, as the
// rescan of a disk does.
package flatten
