package terminal

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Column is one of a [Grid].
type Column struct {
	Name  string
	Right bool // numbers
	// Spare columns are left out where the grid is wider than the terminal, the highest
	// first; 0 stays.
	Spare int
	// Note is text that may be cut; its column stays, and has what the others leave.
	Note bool
}

// noteWidth is what a column of notes gets before spare columns go.
const noteWidth = 16

// gap is what stands between columns.
const gap = 2

// Grid is a table without lines, as ls and virsh print theirs. Its rows are never wider
// than the terminal, as far as columns can go or be cut; what has no width has them all.
type Grid struct {
	Columns []Column
	rows    [][]string
}

// Add adds a row, a cell for each column.
func (g *Grid) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, cell := range cells {
		row[i] = Plain(fmt.Sprint(cell)) // here, so that its width is right
	}
	g.rows = append(g.rows, row)
}

// Print prints the grid, or nothing where it has no rows.
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

// total is how wide the columns are together, with notes as short as they may get.
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

// row is the chosen cells, notes cut to what the other columns leave.
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
