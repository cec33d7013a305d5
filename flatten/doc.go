// Package flatten reads chains of qcow2 images into an [extent.Sink]: Copy hands
// on what a chain holds, as a restore does; CopyPart does so with chosen clusters, as a
// restore in place does; CopyFrames does not unpack what is compressed, as a merge does not;
// and a [Comparer] passes on what differs from a chain, as the rescan of a disk does.
package flatten
