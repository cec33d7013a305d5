package main

// number is the version of the program. It is written down only here and at the beginning of
// CHANGELOG.md.
const number = "0.5.0"

// revision is the commit that the Makefile builds from, "" without git.
var revision string

// version is what --version prints and manifests contain.
func version() string {
	if revision == "" {
		return number
	}
	return number + " (" + revision + ")"
}
