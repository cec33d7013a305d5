// Package manifest describes restore points without touching any file: what manifest.json
// says of a point and its disks, which names and ids are valid, how people name a point (an
// id, a time, "latest"), and how times are printed.
//
// What lies on disk, and where, is package repository's.
package manifest
