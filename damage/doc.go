// Package damage has the words for what is not as it was sealed: the places in files that
// checks find (Place), and the error that names points and what is lost with them (Error).
//
// It finds no damage: packages hashlist, diskimage and repository do.
package damage
