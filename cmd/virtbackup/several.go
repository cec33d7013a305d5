package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/fleet"
)

// several is a command for several domains.
type several[R any] struct {
	what string // was not done if it fails: "backed up"
	do   fleet.Do[R]
	// print prints a result for people.
	print func(w io.Writer, result R) error
	// enough tells that no other domain is to be begun; nil: never. What is left is a warning.
	enough func() bool
}

// run works on each domain and reports each as soon as it has ended. In the array of JSON, a
// [failure] takes the place of the result of a domain that failed. The error is a
// *severalError if there are several domains and some failed.
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
	}, s.enough)
	sum.left = summary.Left
	if len(summary.Late) > 0 {
		sum.warned = true
		logger(c, c.App.ErrWriter).Warn("no time was left for " + strings.Join(summary.Late, ", "))
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

// printOne prints a result for people. JSON is one array at the end.
func (s several[R]) printOne(c *cli.Context, result R) error {
	if c.Bool("json") {
		return nil
	}
	return printDone(c, nil, func(w io.Writer) error { return s.print(w, result) })
}

// nameOfSeveral returns the name of a domain, or "" if it is the only one: then it cannot be
// confused with another.
func nameOfSeveral(domain string, domains []string) string {
	if len(domains) == 1 {
		return ""
	}
	return domain
}

// named adds the domain to an error, unless its text names it. The name without the word
// "domain" may be in the text by chance.
func named(domain string, err error) error {
	for _, rest := range strings.Split(err.Error(), "domain "+domain)[1:] {
		if rest == "" || strings.ContainsRune(" :,;)\n", rune(rest[0])) {
			return err
		}
	}
	return fmt.Errorf("domain %s: %w", domain, err)
}

// severalError sums up the errors of several domains. Each was printed when it occurred.
type severalError struct {
	of     int
	what   string // was not done
	names  []string
	errs   []error
	left   []string // not begun
	warned bool     // a domain that did not fail has warnings
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

// exitCode is the gravest exit code of all domains.
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

// byGravity are the exit codes in the order in which that of one domain becomes that of all.
// Signals come before them.
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
