// Package commandline extends urfave/cli: options may stand anywhere on the command line,
// and the help has the same form at every level, with options in groups.
package commandline

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// page is the help of the program, of a command and of a subcommand.
var page = template.Must(template.New("help").Parse(`{{.Title}}
{{- range .Text}}

{{.}}
{{- end}}

USAGE:
{{range .Synopsis}}   {{.}}
{{end}}{{range .Sections}}
{{.Title}}:
{{range .Lines}}   {{.}}
{{end}}{{end}}`))

type contents struct {
	Title    string
	Text     []string // paragraphs
	Synopsis []string // one line for each form of the arguments
	Sections []Section
}

// Section is a titled block of a page, such as a group of options.
type Section struct {
	Title string
	Lines []string
}

// standardWidth is the width for output that is not a terminal, and the greatest.
const standardWidth = 80

// PrintHelp prints the help of a *cli.App or *cli.Command, which urfave/cli passes to its
// HelpPrinter. Lines are wrapped at width columns, but at 80 at most; 0 is 80. Commands and
// options are grouped by their Category, in the order of declaration. A description
// consists of examples and, after a blank line, of paragraphs. globals are the options that
// every command has; last are further sections of the program's page.
func PrintHelp(w io.Writer, width int, data any, globals []cli.Flag, last ...Section) error {
	if width <= 0 || width > standardWidth {
		width = standardWidth
	}
	var c contents
	switch d := data.(type) {
	case *cli.App:
		c = contents{Title: title(d.Name, d.Usage, width), Synopsis: []string{d.UsageText}}
		c.describe(d.Description, width)
		c.Sections = slices.Concat(c.Sections, commands(d.Commands, width), options("GLOBAL OPTIONS", d.VisibleFlags(), width), last)
	case *cli.Command:
		c = contents{Title: title(d.HelpName, d.Usage, width), Synopsis: synopsis(d)}
		c.describe(d.Description, width)
		program, _, _ := strings.Cut(d.HelpName, " ")
		global := Section{"GLOBAL OPTIONS (" + program + " --help explains them)", wrap(strings.Join(names(globals), ", "), width-indent)}
		c.Sections = slices.Concat(c.Sections, commands(d.Subcommands, width), options("OPTIONS", d.VisibleFlags(), width), []Section{global})
	default:
		return fmt.Errorf("help of a %T", data)
	}
	return page.Execute(w, c)
}

// indent is the indentation in the template.
const indent = 3

func title(name, usage string, width int) string {
	return strings.Join(wrap(name+": "+usage, width), "\n")
}

// synopsis returns a line for each form of the arguments, which | separates.
func synopsis(c *cli.Command) (forms []string) {
	command := c.HelpName + " [options] "
	if len(c.Subcommands) > 0 {
		command = c.HelpName + " COMMAND [options] "
	}
	for form := range strings.SplitSeq(c.ArgsUsage, " | ") {
		forms = append(forms, command+form)
	}
	return forms
}

// describe splits a description into examples and paragraphs.
func (c *contents) describe(description string, width int) {
	examples, text, _ := strings.Cut(description, "\n\n")
	if examples != "" {
		c.Sections = append(c.Sections, Section{"EXAMPLES", strings.Split(examples, "\n")})
	}
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if paragraph != "" {
			c.Text = append(c.Text, strings.Join(wrap(paragraph, width), "\n"))
		}
	}
}

// row is a command or an option with its text.
type row struct{ name, text string }

// groups are rows by title, in the order of their first rows.
type groups struct {
	titles []string
	rows   map[string][]row
}

func (g *groups) add(category, standard string, r row) {
	title := strings.ToUpper(category)
	if title == "" {
		title = standard
	}
	if g.rows == nil {
		g.rows = map[string][]row{}
	}
	if g.rows[title] == nil {
		g.titles = append(g.titles, title)
	}
	g.rows[title] = append(g.rows[title], r)
}

// sections formats the rows of all groups in two columns.
func (g *groups) sections(width int) (all []Section) {
	const gap = 2
	left := 0
	for _, rows := range g.rows {
		for _, r := range rows {
			left = max(left, utf8.RuneCountInString(r.name)+gap)
		}
	}
	for _, title := range g.titles {
		s := Section{Title: title}
		for _, r := range g.rows[title] {
			for i, line := range wrap(r.text, width-indent-left) {
				name := r.name
				if i > 0 {
					name = ""
				}
				s.Lines = append(s.Lines, fmt.Sprintf("%-*s%s", left, name, line))
			}
		}
		all = append(all, s)
	}
	return all
}

func commands(all []*cli.Command, width int) []Section {
	var g groups
	for _, c := range all {
		if !c.Hidden {
			g.add(c.Category, "COMMANDS", row{c.Name, c.Usage})
		}
	}
	return g.sections(width)
}

// options returns the options of a page. --help of a command is among the global ones.
func options(standard string, flags []cli.Flag, width int) []Section {
	var g groups
	for _, f := range flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok || f == cli.HelpFlag && standard == "OPTIONS" {
			continue
		}
		category := ""
		if c, ok := f.(cli.CategorizableFlag); ok {
			category = c.GetCategory()
		}
		g.add(category, standard, row{name(d), text(d)})
	}
	return g.sections(width)
}

func names(flags []cli.Flag) (all []string) {
	for _, f := range slices.Concat(flags, []cli.Flag{cli.HelpFlag}) {
		if d, ok := f.(cli.DocGenerationFlag); ok {
			all = append(all, name(d))
		}
	}
	return all
}

// name returns an option as it is typed. Its value is the word in backquotes in its usage.
func name(f cli.DocGenerationFlag) string {
	name := "--" + f.Names()[0]
	if _, rest, ok := strings.Cut(f.GetUsage(), "`"); ok && f.TakesValue() {
		value, _, _ := strings.Cut(rest, "`")
		name += " " + value
	}
	return name
}

// text returns what an option does, its default, and its environment variables.
func text(f cli.DocGenerationFlag) string {
	text := strings.ReplaceAll(f.GetUsage(), "`", "")
	standard := strings.Trim(f.GetDefaultText(), `"`)
	if minutes, ok := strings.CutSuffix(standard, "m0s"); ok {
		standard = minutes + "m"
	}
	if !slices.Contains([]string{"", "0", "0s"}, standard) && f.TakesValue() { // zero: nothing is set
		text += " (default: " + standard + ")"
	}
	for _, variable := range f.GetEnvVars() {
		text += " [$" + variable + "]"
	}
	return text
}

// wrap breaks text between words into lines of at most width columns. A longer word gets a
// line of its own.
func wrap(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
