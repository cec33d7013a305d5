package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/fleet"
)

// several is what is done for several domains.
type several[R any] struct {
	what string // is not done for those that fail: "backed up"
	do   fleet.Do[R]
	// print is for people.
	print func(w io.Writer, result R) error
}

// run does it for each, and reports each as soon as it has ended. In JSON a domain that
// failed stands in the array as a [failure] in the place of its result. The error is a
// *severalError where some of several failed.
func (s several[R]) run(c *cli.Context, domains []string) error {
	sum := &severalError{of: len(domains), what: s.what}
	results := []any{}
	do := func(domain string) (R, bool, error) {
		result, warned, err := s.do(domain)
		return result, warned, forSession(c, err)
	}
	summary := fleet.Run(c.Context, domains, do, func(o fleet.Outcome[R]) {
		switch {
		case o.Err == nil:
			results = append(results, o.Result)
			sum.warned = s.printOne(c, o.Result) != nil || o.Warned || sum.warned
			return
		case len(domains) > 1:
			report(c.App.ErrWriter, named(o.Domain, o.Err))
		}
		sum.add(o.Domain, o.Err)
		f := failed(o.Err)
		f.Domain = o.Domain
		results = append(results, f)
	})
	sum.left = summary.Left
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

// printOne is for people: JSON has one array of all, at the end.
func (s several[R]) printOne(c *cli.Context, result R) error {
	if c.Bool("json") {
		return nil
	}
	return printDone(c, nil, func(w io.Writer) error { return s.print(w, result) })
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
