package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// column is one of a grid.
type column struct {
	name  string
	right bool // numbers
	// spare columns are left out where the grid is wider than the terminal, the highest
	// first; 0 stays.
	spare int
	// note is text that may be cut; its column stays, and has what the others leave.
	note bool
}

// noteWidth is what a column of notes gets before spare columns go.
const noteWidth = 16

// gap is what stands between columns.
const gap = 2

// grid is a table without lines, as ls and virsh print theirs. Its rows are never wider
// than the terminal, as far as columns can go or be cut; what has no width has them all.
type grid struct {
	columns []column
	rows    [][]string
}

// add adds a row, a cell for each column.
func (g *grid) add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = plain(fmt.Sprint(cell)) // here, so that its width is right
	}
	g.rows = append(g.rows, row)
}

// print prints the grid, or nothing where it has no rows.
func (g *grid) print(w io.Writer, indent string) error {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatDefault
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", gap)
	t.SetStyle(style)
	limit := widthOf(w) - len(indent)
	if widthOf(w) == 0 {
		limit = 0
	}
	chosen := g.fit(limit)
	header := make([]string, len(g.columns))
	var configs []table.ColumnConfig
	for i, c := range g.columns {
		header[i] = c.name
		if c.right {
			configs = append(configs, table.ColumnConfig{Name: c.name, Align: text.AlignRight, AlignHeader: text.AlignRight})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(g.row(header, chosen, limit))
	for _, cells := range g.rows {
		t.AppendRow(g.row(cells, chosen, limit))
	}
	// Padding leaves spaces at the ends of lines.
	for line := range strings.Lines(t.Render()) {
		if _, err := fmt.Fprintln(w, strings.TrimRight(indent+line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// fit chooses the columns that are printed: those that hold something, and that fit
// into the limit; 0 is none.
func (g *grid) fit(limit int) []int {
	var chosen []int
	for i := range g.columns {
		if g.content(i) {
			chosen = append(chosen, i)
		}
	}
	for limit > 0 && g.total(chosen) > limit {
		spare := slices.MaxFunc(chosen, func(a, b int) int { return g.columns[a].spare - g.columns[b].spare })
		if g.columns[spare].spare == 0 {
			break
		}
		chosen = slices.DeleteFunc(chosen, func(i int) bool { return i == spare })
	}
	return chosen
}

func (g *grid) content(i int) bool {
	return slices.ContainsFunc(g.rows, func(row []string) bool { return row[i] != "" })
}

// total is how wide the columns are together, with notes as short as they may get.
func (g *grid) total(chosen []int) int {
	sum := gap * (len(chosen) - 1)
	for _, i := range chosen {
		if width := g.width(i); g.columns[i].note {
			sum += min(width, noteWidth)
		} else {
			sum += width
		}
	}
	return sum
}

func (g *grid) width(i int) int {
	widest := text.StringWidthWithoutEscSequences(g.columns[i].name)
	for _, row := range g.rows {
		widest = max(widest, text.StringWidthWithoutEscSequences(row[i]))
	}
	return widest
}

// row is the chosen cells, notes cut to what the other columns leave.
func (g *grid) row(cells []string, chosen []int, limit int) table.Row {
	left := limit - gap*(len(chosen)-1)
	for _, i := range chosen {
		if !g.columns[i].note {
			left -= g.width(i)
		}
	}
	var row table.Row
	for _, i := range chosen {
		cell := cells[i]
		if g.columns[i].note && limit > 0 {
			cell = text.Snip(cell, max(left, 1), "…")
		}
		row = append(row, cell)
	}
	return row
}
