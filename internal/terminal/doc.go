// Package terminal is what a person sees: tables that fit the width, progress as bars or
// lines, a log, and text that cannot steer the terminal. It knows nothing of backups.
package terminal
