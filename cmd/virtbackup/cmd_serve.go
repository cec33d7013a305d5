package main

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/serve"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "let other programs read a point's disks over NBD, without restoring it",
		ArgsUsage: "DOMAIN[@POINT]",
		Description: "virtbackup serve vm1\n" +
			"virtbackup serve vm1@check2 --disk vda --socket /run/vm1.sock\n" +
			"guestmount --ro -i --format=raw -a 'nbd:///vda?socket=/run/vm1.sock' /mnt\n" +
			"qemu-img convert -O qcow2 'nbd+unix:///vda?socket=/run/vm1.sock' vda.qcow2\n\n" +
			"It prints the address of each disk, and goes on until Ctrl-C or SIGTERM; the exit code is\n" +
			"then 128 and the number of the signal. Disks are read-only and raw, whatever the images\n" +
			"are. Every byte is compared with its hash before it is sent: damage is an I/O error for\n" +
			"who reads there, and an error in the log. Meanwhile prune frees nothing of the domain.\n" +
			"Only this user, and root, can connect to the socket; every user of this host can read\n" +
			"from an address.",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "disk", Usage: "serve only disk `TARGET` (vda); may be repeated"},
			&cli.StringFlag{Name: "socket", Usage: "listen on a socket that is made at `PATH` (default: one below /run/virtbackup)"},
			&cli.StringFlag{Name: "listen", Usage: "listen on `ADDRESS:PORT` of this host alone, such as 127.0.0.1:10809"},
			// Of restore --instant, which starts this command.
			&cli.StringFlag{Name: "pin", Hidden: true},
		},
		Action: serveAction,
	}
}

func serveAction(c *cli.Context) error {
	arg, err := oneDomain(c)
	if err != nil {
		return err
	}
	for _, option := range []string{"socket", "listen"} { // a variable of a script that is not set
		if c.IsSet(option) && c.String(option) == "" {
			return fail.Errorf(fail.Usage, "leave it out for a socket of a default name", "--%s is empty", option)
		}
	}
	repo, domain, at, err := openWithPoint(c, arg)
	if err != nil {
		return err
	}
	r := serve.Request{Domain: domain, At: at, Disks: c.StringSlice("disk"), Socket: c.String("socket"), Listen: c.String("listen"),
		Pin: c.String("pin"), ForQEMU: c.IsSet("pin"), Log: logger(c, c.App.ErrWriter)}
	ready := false
	err = serve.Run(c.Context, repo, r, func(s serve.Served) error {
		ready = true
		return printAnswer(c, s, func(w io.Writer) error { return view.Served(w, s, c.Bool("quiet")) })
	})
	if signal := signalAlone(err); signal != nil && ready {
		return &servedError{signal}
	}
	return err
}

// servedError is a signal that has ended a server. Nothing else does, so it is no failure.
type servedError struct{ *signalError }

// Unwrap returns the signal.
func (e *servedError) Unwrap() error { return e.signalError }

// signalAlone returns the signal that err is, unless something else is joined to it.
func signalAlone(err error) *signalError {
	if signal, ok := err.(*signalError); ok {
		return signal
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 1 {
		return nil
	}
	return signalAlone(joined.Unwrap()[0])
}
