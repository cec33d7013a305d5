// Package lineage reads the points of a domain, as their manifests are in its directory, and
// says what they need of one another: which are listed, which hidden (removed.json), which
// cannot be read, and what is lost with them.
//
// It writes nothing but removed.json. Who may hide a point is for package repository to say.
package lineage
