package terminal

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Column is one column of a [Grid].
type Column struct {
	Name  string
	Right bool // align to the right, as numbers are
	// Spare columns are left out, the highest value first, while the grid is wider than
	// the terminal. A column with 0 is never left out.
	Spare int
	// Note marks text that may be cut. Its column is never left out and gets the width
	// that the others leave.
	Note bool
}

// noteWidth is the width that a column of notes keeps while spare columns are left out.
const noteWidth = 16

// gap is the number of spaces between columns.
const gap = 2

// Grid is a table without lines, like those of ls and virsh. Columns are left out or cut
// until its rows fit the terminal; output that is not a terminal gets all columns.
type Grid struct {
	Columns []Column
	rows    [][]string
}

// Add adds a row of one cell per column.
func (g *Grid) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = Plain(fmt.Sprint(cell)) // now, because it changes the width
	}
	g.rows = append(g.rows, row)
}

// Print prints the grid, or nothing if it has no rows.
func (g *Grid) Print(w io.Writer, indent string) error {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", gap)
	t.SetStyle(style)
	limit := Width(w) - len(indent)
	if Width(w) == 0 {
		limit = 0
	}
	chosen := g.fit(limit)
	header := make([]string, len(g.Columns))
	var configs []table.ColumnConfig
	for i, c := range g.Columns {
		header[i] = c.Name
		if c.Right {
			configs = append(configs, table.ColumnConfig{Name: c.Name, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(g.row(header, chosen, limit))
	for _, cells := range g.rows {
		t.AppendRow(g.row(cells, chosen, limit))
	}
	// The padding adds spaces at the end of each line.
	for line := range strings.Lines(t.Render()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(indent+line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// fit chooses the columns to print: those that are not empty and fit into limit columns of
// the terminal. 0 is no limit.
func (g *Grid) fit(limit int) []int {
	var chosen []int
	for i := range g.Columns {
		if g.content(i) {
			chosen = append(chosen, i)
		}
	}
	for limit > 0 && g.total(chosen) > limit {
		spare := slices.MaxFunc(chosen, func(a, b int) int { return g.Columns[a].Spare - g.Columns[b].Spare })
		if g.Columns[spare].Spare == 0 {
			break
		}
		chosen = slices.DeleteFunc(chosen, func(i int) bool { return i == spare })
	}
	return chosen
}

func (g *Grid) content(i int) bool {
	return slices.ContainsFunc(g.rows, func(row []string) bool { return row[i] != "" })
}

// total is the width of the columns together, with notes cut to noteWidth.
func (g *Grid) total(chosen []int) int {
	sum := gap * (len(chosen) - 1)
	for _, i := range chosen {
		if width := g.width(i); g.Columns[i].Note {
			sum += min(width, noteWidth)
		} else {
			sum += width
		}
	}
	return sum
}

func (g *Grid) width(i int) int {
	widest := text.StringWidthWithoutEscSequences(g.Columns[i].Name)
	for _, row := range g.rows {
		widest = max(widest, text.StringWidthWithoutEscSequences(row[i]))
	}
	return widest
}

// row returns the chosen cells, with notes cut to the width that the other columns leave.
func (g *Grid) row(cells []string, chosen []int, limit int) table.Row {
	left := limit - gap*(len(chosen)-1)
	for _, i := range chosen {
		if !g.Columns[i].Note {
			left -= g.width(i)
		}
	}
	var row table.Row
	for _, i := range chosen {
		cell := cells[i]
		if g.Columns[i].Note && limit > 0 {
			cell = text.Snip(cell, max(left, 1), "…")
		}
		row = append(row, cell)
	}
	return row
}
