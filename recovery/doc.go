// Package recovery cleans up after a run that was killed: it ends its job, thaws or resumes
// the guest, and removes its checkpoint, its unfinished point and its files. It also
// redefines checkpoints that libvirt has lost.
//
// Ownership is proven, not guessed from similar names: a job, a checkpoint, a socket and a
// scratch file by the identity in its name, which this repository has issued; a frozen or
// paused guest by a mark that is set before, in the locked directory of the domain; an
// unfinished point by its place there. Nothing else is touched.
//
// Each fix may be interrupted and repeated.
package recovery
