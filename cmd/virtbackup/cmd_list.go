package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/view"
	"github.com/virtbackup/virtbackup/damage"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/lineage"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name:        "list",
		Usage:       "show the points, as a tree of chains",
		ArgsUsage:   "[DOMAIN]",
		Description: "virtbackup list\nvirtbackup list vm1\nvirtbackup list vm1 --hidden   also removed points whose data is still there\nvirtbackup list vm1 --json | jq '.[].id'",
		Flags:       []cli.Flag{boolFlag("hidden", "also list removed points whose data is still there")},
		Action:      list,
	}
}

func list(c *cli.Context) error {
	if c.Args().Len() > 1 {
		return argumentError(c)
	}
	repo, err := repository.Open(c.String("repo"))
	if err != nil {
		return err
	}
	domains, err := listed(repo, c.Args().First())
	if err != nil {
		return err
	}
	all := []view.Listed{}
	var shown []string // domains with a point that can be read, or without points
	var unreadable error
	warned := false
	var removed []manifest.Manifest // that are not shown
	for _, domain := range domains {
		lineage, err := repo.Lineage(domain)
		if err != nil {
			return err
		}
		facts, damaged, err := factsOf(repo, lineage)
		if err != nil {
			return err
		}
		unreadable = errors.Join(unreadable, lineage.Err(), damaged)
		if lineage.Err() == nil || len(lineage.Points) > 0 {
			shown = append(shown, domain)
		}
		if damage := facts.Ledger.Damage; damage != nil {
			warned = true
			logger(c, c.App.ErrWriter).Warn(fmt.Sprintf("%v: which points have a checkpoint is not known, and the next backup compares the disks", damage))
		}
		if !c.Bool("hidden") {
			removed = append(removed, lineage.Hidden...)
		}
		all = append(all, view.List(lineage.All(), facts, c.Bool("hidden"))...)
	}
	err = printAnswer(c, all, func(w io.Writer) error {
		if unreadable != nil && len(shown) == 0 { // the error says it all
			return nil
		}
		if c.Bool("quiet") {
			return view.Names(w, all)
		}
		return errors.Join(view.Trees(w, shown, all), view.Removed(w, removed))
	})
	if err != nil {
		return errors.Join(err, unreadable)
	}
	if unreadable != nil {
		return unreadable
	}
	return warnedIf(warned)
}

// factsOf gathers what list shows of a domain besides the manifests. damaged says which files
// about protected or removed points cannot be read.
func factsOf(repo *repository.Repository, l *lineage.Lineage) (f view.Facts, damaged, err error) {
	proofs := repo.Proofs(l)
	f = view.Facts{Removals: l.Removals, Verified: proofs.Verified(), ProvenPercent: proofs.Percent(), Drills: repo.DrillsOf(l), Lost: l.Broken(), Now: time.Now()}
	if f.Ledger, err = repo.Ledger(l.Domain); err != nil {
		return f, nil, err
	}
	protections, damaged := repo.Protections(l.Domain)
	f.Protected = l.Protected(protections, time.Now())
	if f.Pinned, err = repo.Pinned(l.Domain); err != nil {
		damaged = errors.Join(damaged, err)
	}
	if len(l.BadRemovals) > 0 {
		damaged = errors.Join(damaged, &damage.Error{Points: l.BadRemovals})
	}
	return f, damaged, nil
}

// listed returns the domain that was asked for, or all domains.
func listed(repo *repository.Repository, domain string) ([]string, error) {
	domains, err := repo.Domains()
	if err != nil || domain == "" {
		return domains, err
	}
	if slices.Contains(domains, domain) {
		return []string{domain}, nil
	}
	err = fmt.Errorf("domain %s has no points in repository %s: %w", domain, repo.Dir(), manifest.ErrNoPoint)
	if name, at, ok := strings.Cut(domain, "@"); ok && slices.Contains(domains, name) && manifest.IsPointName(at) {
		err = fail.WithHint(err, "virtbackup show %s", manifest.ShellWord(domain))
	}
	return nil, err
}

func showCommand() *cli.Command {
	return &cli.Command{
		Name:        "show",
		Usage:       "show one point in full",
		ArgsUsage:   "DOMAIN[@POINT]",
		Description: "virtbackup show vm1           the newest point\nvirtbackup show vm1@check2",
		Action:      show,
	}
}

func show(c *cli.Context) error {
	name, err := oneDomain(c)
	if err != nil {
		return err
	}
	repo, domain, at, err := openWithPoint(c, name)
	if err != nil {
		return err
	}
	m, err := repo.Find(domain, at)
	if err != nil {
		return err
	}
	protections, err := repo.Protections(domain)
	if err != nil {
		return err
	}
	shown := view.Shown{Manifest: m}
	lineage, err := repo.Lineage(domain)
	if err != nil {
		return err
	}
	if p, ok := lineage.Protected(protections, time.Now())[m.ID]; ok {
		shown.Protected = &p
	}
	pinned, err := repo.Pinned(domain)
	if err != nil {
		return err
	}
	shown.Pinned = view.PinnedBy(pinned(m.ID))
	if drill, ok := repo.DrillsOf(lineage)[m.ID]; ok {
		shown.Drill = &drill
	}
	return printAnswer(c, shown, func(w io.Writer) error { return view.Point(w, repo, shown, c.Bool("quiet")) })
}
