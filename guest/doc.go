// Package guest works on a domain that this process has locked in a repository. It knows
// what on the host belongs to this repository: jobs, checkpoints, sockets, scratch files.
// It also guards the guest: a [Session] remembers what has been done to it, so that the run
// that did it, or recovery after that run was killed, leaves it neither frozen nor paused.
package guest
