package main

// number is the version of the program: here and nowhere else. CHANGELOG.md begins with it.
const number = "0.2.0"

// revision is the commit that the Makefile builds from, "" where there is no git.
var revision string

// version is what --version prints, and what manifests say.
func version() string {
	if revision == "" {
		return number
	}
	return number + " (" + revision + ")"
}
