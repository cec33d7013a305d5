// Package shutoff does for the checkpoints of a domain that is shut off what libvirt does only
// for one that runs: it knows which of their bitmaps can be used and how much these show, and
// deletes them. It looks at the images of the domain's disks, through QEMU's own programs.
//
// [Host] makes domains that do this by themselves, so that recovery and everything else that
// works on checkpoints need not know whether the domain runs.
package shutoff
