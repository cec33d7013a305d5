// Package fault lets tests break a run at any of its points: with SIGKILL, with
// SIGTERM, with an I/O error, with a full disk, with a panic.
//
// A point has a name, and is in the code where the run could end: before and
// after each step, each fsync and each rename, between two buffers of the copy.
// In normal builds a point does nothing. In a build with the tag faults the
// environment says what happens where:
//
//	VIRTBACKUP_FAULT='step begin after:kill'            what happens at which point
//	VIRTBACKUP_FAULT='copy buffer#3:pause,undo end:kill' at the third time; two of them
//	VIRTBACKUP_FAULT_TRACE=FILE                          appends each point as it is passed
//
// The trace of an undisturbed run is the list of all its points, so no list needs to be
// maintained.
package fault

// Around does something between two points, "NAME before" and "NAME after". An
// error at the first keeps it from being done, one at the second comes in
// addition to its having been done.
func Around(name string, do func() error) error {
	if err := Point(name + " before"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return Point(name + " after")
}
