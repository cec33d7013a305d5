package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/backup"
	"github.com/virtbackup/virtbackup/internal/panics"
)

// several is what is done for several domains, one after the other.
type several struct {
	what string // is not done for those that fail: "backed up"
	// do returns what was done for one, and whether it has warnings.
	do func(domain string) (result any, warned bool, err error)
	// print is for people.
	print func(w io.Writer, result any) error
}

// run goes on after a failure. In JSON a domain that failed stands in the array as a
// [failure] in the place of its result. The error is a
// *severalError where some of several failed.
func (s several) run(c *cli.Context, domains []string) error {
	results := []any{}
	sum := &severalError{of: len(domains), what: s.what}
	for i, domain := range domains {
		result, warned, err := s.one(domain)
		if err = forSession(c, err); err != nil {
			if len(domains) > 1 {
				report(c.App.ErrWriter, named(domain, err))
			}
			sum.add(domain, err)
			f := failed(err)
			f.Domain = domain
			results = append(results, f)
			if c.Context.Err() != nil || errors.Is(err, backup.ErrStuck) {
				sum.left = domains[i+1:]
				break
			}
			continue
		}
		results = append(results, result)
		sum.warned = sum.warned || warned
		if !c.Bool("json") {
			err := printDone(c, nil, func(w io.Writer) error { return s.print(w, result) })
			sum.warned = sum.warned || err != nil
		}
	}
	if c.Bool("json") {
		sum.warned = printDone(c, results, nil) != nil || sum.warned
	}
	switch {
	case len(domains) == 1 && len(sum.errs) == 1:
		return sum.errs[0]
	case len(sum.errs) > 0:
		return sum
	}
	return warnedIf(sum.warned)
}

// named is an error that says which domain it is about. A name alone may be in a text by
// chance.
func named(domain string, err error) error {
	for _, rest := range strings.Split(err.Error(), "domain "+domain)[1:] {
		if rest == "" || strings.ContainsRune(" :,;)\n", rune(rest[0])) {
			return err
		}
	}
	return fmt.Errorf("domain %s: %w", domain, err)
}

// one does it for one domain. A panic is its failure: the others have their turn.
func (s several) one(domain string) (result any, warned bool, err error) {
	err = panics.Catch(func() error {
		result, warned, err = s.do(domain)
		return err
	})
	return result, warned, err
}

// severalError is what is left to say after some of several domains failed, each
// with an error that was printed at once.
type severalError struct {
	of     int
	what   string // was not done
	names  []string
	errs   []error
	left   []string // had no turn
	warned bool     // about others
}

func (e *severalError) add(domain string, err error) {
	e.names, e.errs = append(e.names, domain), append(e.errs, err)
}

func (e *severalError) Error() string {
	text := fmt.Sprintf("%d of %d domains were not %s: %s", len(e.errs)+len(e.left), e.of, e.what, strings.Join(e.names, ", "))
	if len(e.left) > 0 {
		text += "; not begun: " + strings.Join(e.left, ", ")
	}
	return text
}

// exitCode is the gravest of all.
func (e *severalError) exitCode() int {
	codes := []int{exitDone}
	if e.warned {
		codes = append(codes, exitWarning)
	}
	for _, err := range e.errs {
		codes = append(codes, exitCode(err))
	}
	return gravest(codes)
}

// byGravity are the exit codes that one of several domains gives all, below those of signals.
var byGravity = []int{exitBug, exitDamaged, exitFailed, exitUsage, exitNotFound, exitLocked, exitWarning, exitDone}

func gravest(codes []int) int {
	if signal := slices.Max(codes); signal > exitSignal {
		return signal
	}
	for _, code := range byGravity {
		if slices.Contains(codes, code) {
			return code
		}
	}
	return exitFailed
}

// failure is an error in JSON.
type failure struct {
	Domain   string `json:"domain,omitempty"` // where several were asked for
	Error    string `json:"error"`
	Hint     string `json:"hint,omitempty"`
	ExitCode int    `json:"exit_code"`
}

func failed(err error) failure {
	return failure{Error: err.Error(), Hint: hintFor(err), ExitCode: exitCode(err)}
}
