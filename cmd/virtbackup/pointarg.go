package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
	"github.com/virtbackup/virtbackup/repository"
)

// pointArg splits an argument DOMAIN[@POINT]; at is "" without a point. libvirt allows @ in
// names: if known says that a domain has the whole name, that domain is meant. If a point
// of another domain could be meant, too, it is an error.
func pointArg(arg string, known func(domain string) bool) (domain, at string, err error) {
	i := strings.LastIndexByte(arg, '@')
	if i <= 0 {
		return arg, "", nil
	}
	domain, at = arg[:i], arg[i+1:]
	switch whole := known(arg); {
	case whole && known(domain) && manifest.IsPointName(at):
		return "", "", fail.Errorf(fail.Usage, fmt.Sprintf("%s@latest, or another of its points, means the domain; so does restore %s --at POINT", arg, arg), "%s is a domain, and could be point %s of domain %s", arg, at, domain)
	case whole:
		return arg, "", nil
	case at == "":
		return "", "", fail.Errorf(fail.Usage, fmt.Sprintf("%s@latest, or %s alone", domain, domain), "%s names no point", arg)
	}
	return domain, at, nil
}

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
	domain, at, err = pointArg(arg, known)
	return repo, domain, at, err
}
