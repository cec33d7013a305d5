// Package recovery cleans up after a run that was killed: it ends its job, lets the
// guest go on, and removes its checkpoint, its unfinished point and its files. And it
// tells libvirt again of checkpoints that it has lost.
//
// What is ours is known by proof, not by likeness: a job, a checkpoint, a socket and a
// scratch file by the identity in its name, which this repository has issued; a frozen or
// paused guest by a mark that is set before, in the locked directory of the domain; an
// unfinished point by its place there. Nothing else is touched.
//
// Each fix may be interrupted and done again.
package recovery
