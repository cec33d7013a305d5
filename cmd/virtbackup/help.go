package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/commandline"
	"github.com/virtbackup/virtbackup/internal/terminal"
)

const description = `virtbackup init /srv/backup            make a repository (--repo /srv/backup)
virtbackup full vm1                    start a chain
virtbackup inc vm1                     what changed since the newest point
virtbackup list vm1                    the points, as a tree
virtbackup restore vm1 --to /tmp/vm1   the newest point, as standalone images

virtbackup copies the disks of KVM guests, running or shut off, at one instant, into
plain qcow2 images: at first all that holds data, then only what changed. Options
may stand before or after the arguments.`

// exitCodes are explained where people look first.
var exitCodes = commandline.Section{Title: "EXIT CODES", Lines: []string{
	"0 done, 1 failed, 2 wrong command line, 3 done with a warning,",
	"4 another run works on the domain, 5 damage found, 6 no such domain, disk or",
	"point, 70 a bug (please report it), 128+N ended by signal N",
}}

// The groups of commands and of options.
const (
	toBackUp  = "Back up"
	toRestore = "Look and restore"
	toRetain  = "Keep and prune"
	toCleanUp = "Clean up"

	ofCopy    = "What to copy"
	ofRestore = "What to restore"
	ofInPlace = "In place"
	ofDefine  = "The domain"
	ofInstant = "At once"
	ofGuest   = "Guest"
	ofImages  = "Images"
	ofLimits  = "Limits"
	ofQEMU    = "QEMU's files"
	ofKeeping = "Rules"
	ofPruning = "Points"
	ofMerging = "Merging"
)

func init() {
	cli.HelpPrinter = func(w io.Writer, _ string, data any) {
		// An error of standard output: what is printed next has it, too.
		_ = commandline.PrintHelp(w, terminal.Width(w), data, globalFlags(), exitCodes)
	}
}
