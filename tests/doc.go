// Package tests holds the whole-program tests, which run the virtbackup binary on real libvirt,
// QEMU and guests. There is a folder for each kind:
//
//	chains   points as they follow each other, on every kind of disk; the oracle
//	cli      what a person types and sees
//	damage   damaged, forged and hostile repositories
//	docs     what the documents promise
//	faults   runs that are broken at every point; power cuts
//	guest    the guest comes first: freezing, block jobs, scratch space
//	recover  cleaning up after killed runs; release
//	bench    measurements
//
// Two packages are for tests to use: testdomain (throwaway domains and guests, the program,
// the judges) and testsite (a domain with a repository and the truth of its points). Files
// without tests have the prefix harness_.
package tests
