package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/virtbackup/virtbackup/internal/terminal"
)

// printAnswer prints the answer to a question: v as JSON with --json, else what people prints.
func printAnswer(c *cli.Context, v any, people func(io.Writer) error) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, v)
	}
	return people(c.App.Writer)
}

// printDone prints the report of what was done, with --quiet only as JSON. The work is done,
// so an error of printing is a warning.
func printDone(c *cli.Context, v any, people func(io.Writer) error) error {
	return printDoneTo(c, c.App.Writer, v, people)
}

// printDoneTo is printDone for another writer than standard output.
func printDoneTo(c *cli.Context, w io.Writer, v any, people func(io.Writer) error) error {
	var err error
	switch {
	case c.Bool("json"):
		err = printJSON(w, v)
	case !c.Bool("quiet"):
		err = people(w)
	}
	if err != nil {
		logger(c, c.App.ErrWriter).Warn(fmt.Sprintf("done, but the report of it is not complete: %v", err))
		return errWarned
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// newProgress returns a progress that is shown as the options say. done is what is done with
// the bytes, such as "copied".
func newProgress(c *cli.Context, done string) *terminal.Progress {
	when := c.String("progress")
	if c.Bool("quiet") {
		when = terminal.BarsNever
	}
	return terminal.NewProgress(c.App.ErrWriter, when, done)
}
