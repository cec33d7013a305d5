// Package fleet does the same thing for several domains: which they are, in what order
// they have their turn, and what became of each.
package fleet

import (
	"context"
	"errors"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/hypervisor"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// Outcome is what became of one domain.
type Outcome[R any] struct {
	Domain string
	// Result is what Do returned; it may say something where Err is set, too.
	Result R
	// Warned says that it is done, with warnings.
	Warned bool
	// Err is why it failed; nil where it is done. A panic is a *panics.Error.
	Err error
}

// Summary is what became of all domains.
type Summary[R any] struct {
	// Outcomes are in the order of the domains.
	Outcomes []Outcome[R]
	// Left are the domains that had no turn.
	Left []string
}

// Do does the work for one domain. warned says that there are warnings.
type Do[R any] func(domain string) (result R, warned bool, err error)

// Run calls do for each domain, one after the other, and tells ended of each outcome
// at once. It goes on after a failure or a panic. It stops once ctx is cancelled, and
// after backup.ErrStuck: what hangs then still uses memory and locks of this process.
func Run[R any](ctx context.Context, domains []string, do Do[R], ended func(Outcome[R])) Summary[R] {
	var s Summary[R]
	for i, domain := range domains {
		o := one(domain, do)
		ended(o)
		s.Outcomes = append(s.Outcomes, o)
		if o.Err != nil && (ctx.Err() != nil || errors.Is(o.Err, backup.ErrStuck)) {
			s.Left = domains[i+1:]
			break
		}
	}
	return s
}

// one does it for one domain, and makes a panic its error.
func one[R any](domain string, do Do[R]) Outcome[R] {
	o := Outcome[R]{Domain: domain}
	o.Err = panics.Catch(func() (err error) {
		o.Result, o.Warned, err = do(domain)
		return err
	})
	return o
}

// Running lists the domains that can be backed up now.
func Running(conn *hypervisor.Conn) ([]string, error) {
	all, err := conn.Domains()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range all {
		domain, err := conn.Domain(name)
		if errors.Is(err, hypervisor.ErrNoDomain) { // gone since
			continue
		}
		if err != nil {
			return nil, err
		}
		active, err := domain.Active()
		if err != nil {
			return nil, err
		}
		if active {
			names = append(names, name)
		}
	}
	return names, nil
}
