// Package keep knows what keeps points of a domain from being removed: the protections in
// protected.json, which people ask for, and the pins, which say that something reads a point
// that may outlive this process.
//
// It reads and replaces these files in a domain's directory. Who may change them, and which
// points a pinned one needs, is for package repository to say.
package keep
