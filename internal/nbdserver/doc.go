// Package nbdserver serves disks for reading over NBD, in the fixed newstyle with structured
// replies and the metadata context base:allocation. It knows nothing of images: a disk is what
// reads and says where it has holes.
//
// A client gets the bytes that the disk returned, or an error; nothing is sent before the disk
// has returned it. Clients share nothing but the disks: one that does not read its replies, or
// sends garbage, harms none of the others. Memory is bounded by the connections, each with
// workers buffers of pieceLength bytes, whatever clients ask for.
//
// The protocol is https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md; the names
// of constants are those there.
package nbdserver
