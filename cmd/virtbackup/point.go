package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/cmd/virtbackup/argument"
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
