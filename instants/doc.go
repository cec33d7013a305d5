// Package instants knows what a repository has issued for a domain: the list in
// instants.json of every random identity, the number and the process of the run that it was
// issued to, and what may be done with its checkpoint.
//
// It reads and replaces the file in a domain's directory. Who may issue an identity, and
// which of them have a sealed point, is for package repository to say.
package instants
