// Command makepoint makes a point as virtbackup does, of a domain in memory and at a time that
// it is told. It is a program of its own so that tests can kill it, at the points of package
// fault, too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/backup/plan"
	"github.com/virtbackup/virtbackup/guest"
	"github.com/virtbackup/virtbackup/internal/limit"
	"github.com/virtbackup/virtbackup/source"
	"github.com/virtbackup/virtbackup/source/pull"
	"github.com/virtbackup/virtbackup/tests/fakelibvirt"
)

func main() {
	if err := run(); err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func run() (err error) {
	var r backup.Request
	domain := flag.String("domain", "", "directory of the domain (fakelibvirt.Host.Load)")
	repo := flag.String("repo", "", "directory of the repository")
	now := flag.String("now", "", "time of the instant, RFC 3339")
	exclude := flag.String("exclude", "", "target of a disk to leave out")
	flag.StringVar((*string)(&r.Kind), "kind", string(plan.Auto), "full, inc, diff, copy or auto")
	flag.StringVar((*string)(&r.Fallback), "fallback", "", "rescan or full")
	flag.StringVar(&r.SocketDir, "run", "", "directory of sockets and scratch files")
	flag.IntVar(&r.Zstd, "zstd", 0, "level of compression")
	flag.Parse()
	at, err := time.Parse(time.RFC3339, *now)
	if err != nil {
		return err
	}
	if *exclude != "" {
		r.Exclude = []string{*exclude}
	}
	var host fakelibvirt.Host
	d, err := host.Load("vm1", *domain)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	r.Domain, r.ScratchDir, r.Limits, r.Version = d.Name(), r.SocketDir, limit.New(0), "nights"
	r.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return point(context.Background(), &host, *repo, at, r)
}

// point makes a point, and prints its id.
func point(ctx context.Context, host *fakelibvirt.Host, repo string, at time.Time, r backup.Request) error {
	result, err := backup.Run(ctx, backup.Deps{
		Host: host, Repository: repo, Now: func() time.Time { return at },
		Source: func(d *guest.LockedDomain, o source.Options, warn func(string)) backup.Source {
			s := pull.New(d, o, warn)
			s.OpenWith(host.Open)
			return s
		},
	}, r)
	if err != nil {
		return err
	}
	fmt.Println(result.Point.ID)
	return nil
}
