// Package localfile reads and writes the files of a repository on a local file system: it
// opens regular files only, puts content and names on stable storage, replaces nothing by
// renaming, and tells which errors of reading mean damage.
//
// It knows nothing of what the files hold.
package localfile
