// Package files tests the files of points, which libguestfs reads: they are those that the file
// system was made of, hostile ones too. An appliance takes 20 seconds to boot where there is no KVM, so the
// tests have the build tag libguestfs, and make test-all runs them.
package files
