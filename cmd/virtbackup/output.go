package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"
)

// printResult prints v as JSON with --json, else whatever people does.
func printResult(c *cli.Context, v any, people func() error) error {
	if !c.Bool("json") {
		return people()
	}
	e := json.NewEncoder(c.App.Writer)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
