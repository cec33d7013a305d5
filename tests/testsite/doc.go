// Package testsite gives whole-program tests a [Site]: a throwaway domain, a repository of its
// own, and the truth of every point that is made of it. It runs virtbackup on the site, and
// checks what virtbackup has made, said, refused and left behind.
//
// What only one folder of tests needs is in that folder.
package testsite
