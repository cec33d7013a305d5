package argument

import (
	"fmt"
	"strings"

	"github.com/virtbackup/virtbackup/internal/fail"
	"github.com/virtbackup/virtbackup/manifest"
)

// Point splits an argument DOMAIN[@POINT]; at is "" without a point. libvirt allows @ in
// names: if known says that a domain has the whole name, that domain is meant. If a point
// of another domain could be meant, too, it is an error.
func Point(arg string, known func(domain string) bool) (domain, at string, err error) {
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
