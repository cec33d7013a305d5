package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// domainsOf returns a function that reports whether a domain has points in a repository.
func domainsOf(repo *repository.Repository) (known func(domain string) bool, err error) {
	domains, err := repo.Domains()
	return func(domain string) bool { return slices.Contains(domains, domain) }, err
}

// openWithPoint opens the repository and splits DOMAIN[@POINT].
func openWithPoint(c *cli.Context, arg string) (repo *repository.Repository, domain, at string, err error) {
	if repo, err = repository.Open(c.String("repo")); err != nil {
		return nil, "", "", err
	}
	known, err := domainsOf(repo)
	if err != nil {
		return nil, "", "", err
	}
	domain, at, err = argument.Point(arg, known)
	return repo, domain, at, err
}

// onePoint returns the id of the point that at names: an id, a time or latest. A time must be
// that of exactly one point: the newest point of a day, or before some time, is never
// removed by accident. Whether there is a point of an id is for others to find out.
func onePoint(repo *repository.Repository, domain, at string) (id string, err error) {
	if _, _, err := manifest.ParsePointID(at); err == nil {
		return at, nil
	}
	m, err := repo.Find(domain, at)
	if err != nil || at == manifest.Latest {
		return m.ID, err
	}
	lineage, err := repo.Lineage(domain)
	if err == nil {
		err = lineage.Err()
	}
	if err != nil {
		return "", err
	}
	points := slices.DeleteFunc(lineage.Points, func(m manifest.Manifest) bool { return !m.IsNamed(at) })
	switch {
	case len(points) == 0:
		return "", fail.Errorf(fail.Usage, "name the point by its id, or by its time", "domain %s has no point of %s: the newest before it is %s", domain, at, m.ID)
	case len(points) > 1:
		return "", fail.Errorf(fail.Usage, "name the point by its id, or more of its time", "%s names %d points of domain %s, from %s to %s", at, len(points), domain, points[0].ID, points[len(points)-1].ID)
	}
	return points[0].ID, nil
}
