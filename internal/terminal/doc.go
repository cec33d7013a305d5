// Package terminal prints for people: tables that fit the width of the terminal, progress
// as bars or lines, a log, and text without control characters. It knows nothing about
// backups.
package terminal
