// Package guest works on a domain that this process has locked in a repository. It knows
// what on the host belongs to this repository: jobs, checkpoints, sockets, scratch files.
// And it guards the guest: a [Session] remembers what has been done to it, so that it is
// left neither frozen nor paused, by the run that did it or by recovery after that run
// was killed.
package guest
