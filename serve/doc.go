// Package serve serves the disks of a point for reading over NBD, an export each, as they were:
// flattened, so that clients see neither chains nor images. Every byte was compared with its hash
// before it is sent; damage is an I/O error for who reads there, and a line in the log.
//
// The protocol is package nbdserver's, the reading reading's.
package serve
