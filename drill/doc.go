// Package drill boots points: each in a transient domain of its own (package machine), from
// overlays on the disks as package serve shows them, so that every byte that the guest reads was
// proven. Nothing of it reaches the network, the original's files or the point.
//
// A guest is up when its agent answers, a text stands on its console, or a script says so. The
// result goes into a record beside the points (package record), and all else is taken away (package
// remains).
//
// Guests are hostile: what they write to the console, and what a script says, is bounded here, and
// escaped by who prints it.
package drill
