// Package fleet works on several domains: it chooses them, works on one after the other, and
// sums up the results.
package fleet

import (
	"context"
	"errors"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// Outcome is the result for one domain.
type Outcome[R any] struct {
	Domain string
	// Result is what Do returned. It may be set even if there is an error.
	Result R
	// Warned says that the work is done, with warnings.
	Warned bool
	// Err is nil if the work is done. After a panic it is a *panics.Error.
	Err error
}

// Summary is the result for all domains.
type Summary[R any] struct {
	// Outcomes are in the order of the domains.
	Outcomes []Outcome[R]
	// Left are the domains that were not begun after an error; Late those that were not begun as it
	// was enough.
	Left, Late []string
}

// Do does the work for one domain. warned says that it is done, with warnings.
type Do[R any] func(domain string) (result R, warned bool, err error)

// Run calls do for each domain, one after the other, and ended after each. It continues after
// an error or a panic. It stops when ctx is cancelled, and after backup.ErrStuck: the call
// that hangs still uses memory and locks of this process. enough, which may be nil, is asked before
// each domain but the first: it stops as well once that is true.
func Run[R any](ctx context.Context, domains []string, do Do[R], ended func(Outcome[R]), enough func() bool) Summary[R] {
	var s Summary[R]
	for i, domain := range domains {
		if i > 0 && enough != nil && enough() {
			s.Late = domains[i:]
			break
		}
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

// one calls do for one domain and returns a panic as its error.
func one[R any](domain string, do Do[R]) Outcome[R] {
	o := Outcome[R]{Domain: domain}
	o.Err = panics.Catch(func() (err error) {
		o.Result, o.Warned, err = do(domain)
		return err
	})
	return o
}
