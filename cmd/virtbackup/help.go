package main

const description = `virtbackup copies the disks of running KVM guests, at one instant, into plain
qcow2 images: at first all that holds data, then only what changed.

   virtbackup init /srv/backup             make a repository (--repo /srv/backup)
   virtbackup full vm1                     start a chain
   virtbackup inc vm1                      what changed since the newest point
   virtbackup list vm1                     the points, as a tree
   virtbackup restore vm1 --to /tmp/vm1    the newest point, as images of their own

Options may stand before or after the arguments.

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done with a warning,
4 another run works on the domain, 5 damage found, 6 no such domain, disk or
point, 70 a bug (please report it), 128+N ended by signal N.`

// commandHelp is the help of one command: examples stand before options.
const commandHelp = `{{.HelpName}}: {{wrap .Usage 3}}

USAGE:
   {{.HelpName}} [options] {{.ArgsUsage}}
{{- if .Description}}

EXAMPLES:
   {{wrap .Description 3}}
{{- end}}

OPTIONS:
{{- template "visibleFlagTemplate" .}}

Options of every command, such as --repo and --json: virtbackup --help
`
