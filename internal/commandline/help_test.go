package commandline

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// Groups stand in the order of their first options, words are never broken, and what an
// option takes stands beside it.
func TestPrintHelp(t *testing.T) {
	command := &cli.Command{
		HelpName: "program copy", Usage: "copy one thing or another to some other place", ArgsUsage: "FROM | --all",
		Description: "program copy a\nprogram copy --all\n\nIt takes a while, and some more.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Category: "Target", Value: "here", Usage: "copy to `DIR`, wherever that may be", EnvVars: []string{"TO"}},
			&cli.BoolFlag{Name: "all", Usage: "copy all"},
			&cli.DurationFlag{Name: "wait", Category: "Target", Value: 5 * time.Minute, Usage: "wait `TIME`"},
			&cli.BoolFlag{Name: "secret", Hidden: true},
		},
	}
	globals := []cli.Flag{&cli.StringFlag{Name: "repo", Usage: "in `DIR`"}, &cli.BoolFlag{Name: "json", Usage: "as JSON"}}
	var b bytes.Buffer
	if err := PrintHelp(&b, 40, command, globals); err != nil {
		t.Fatal(err)
	}
	const want = `program copy: copy one thing or another
to some other place

It takes a while, and some more.

USAGE:
   program copy [options] FROM
   program copy [options] --all

EXAMPLES:
   program copy a
   program copy --all

TARGET:
   --to DIR     copy to DIR, wherever
                that may be (default:
                here) [$TO]
   --wait TIME  wait TIME (default: 5m)

OPTIONS:
   --all        copy all

GLOBAL OPTIONS (program --help explains them):
   --repo DIR, --json, --help
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// What has no width of its own, and what is very wide, gets lines that can be read.
func TestWidth(t *testing.T) {
	app := &cli.App{Name: "program", Usage: strings.Repeat("word ", 40), UsageText: "program", Commands: []*cli.Command{{Name: "hidden", Hidden: true}}}
	for _, width := range []int{0, 80, 300} {
		var b bytes.Buffer
		if err := PrintHelp(&b, width, app, nil, Section{"LAST", []string{"a line"}}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if len(line) > 81 {
				t.Errorf("%d columns: %s", width, line)
			}
		}
		if strings.Contains(b.String(), "hidden") || !strings.HasSuffix(b.String(), "\nLAST:\n   a line\n") {
			t.Errorf("%d columns:\n%s", width, b.String())
		}
	}
	if err := PrintHelp(&bytes.Buffer{}, 0, "a string", nil); err == nil {
		t.Error("help of a string")
	}
}
