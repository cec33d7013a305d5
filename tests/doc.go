// Package tests holds the whole-program tests, which run the virtbackup binary on real libvirt,
// QEMU and guests. There is a folder for each kind:
//
//	chains   sequences of points, on every kind of disk; the oracle
//	cli      the command line: options, messages, exit statuses, signals
//	damage   damaged, forged and hostile repositories
//	docs     what the documents promise
//	faults   faults at every point of a run; power cuts
//	files    files of points, through libguestfs (make libguestfs)
//	firmware firmware that boots a guest (make test-all)
//	guest    effects on the guest: freezing, block jobs, scratch space
//	inplace  points restored into the disks that domains have
//	nights   hundreds of nights of backups and prunes, with a clock of their own
//	offline  domains that are shut off
//	realguest points of a Debian with PostgreSQL boot (make realguest)
//	recover  cleaning up after killed runs; release
//	restores domains that are defined again, from points
//	bench    measurements
//
// Two packages are for tests to use: testdomain (throwaway domains and guests, the program,
// the judges) and testsite (a domain with a repository and the truth of its points). Files
// without tests have the prefix harness_.
package tests
