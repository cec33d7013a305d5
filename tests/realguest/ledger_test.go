//go:build realguest

package realguest

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// ledger is the host's record of the rows that the guest has committed, as the guest reported
// them.
type ledger struct {
	mu    sync.Mutex
	sums  []string // by the number of the row
	err   error
	heard chan struct{} // closed when the guest is off and all of its reports are here
}

// newLedger has row 0, which the guest has from the beginning.
func newLedger() *ledger { return &ledger{sums: []string{"genesis"}} }

// listen records what a guest that was booted reports, until it is off. While nobody listens, the
// guest waits with its next row.
func (l *ledger) listen(t *testing.T, d *testdomain.Domain) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(d.Dir, testdomain.LedgerSocket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	heard := make(chan struct{})
	l.heard = heard
	go func() {
		defer close(heard)
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			l.record(lines.Text())
		}
	}()
}

// catchUp takes the rows of the guest that were committed just before it was told to stop, and not
// reported any more: one at most.
func (l *ledger) catchUp(t *testing.T, rows []string) {
	t.Helper()
	if err := l.check(rows, l.newest(), l.newest()+1); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sums = rows
}

// record takes the report of a row, its number and its sum.
func (l *ledger) record(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number, sum, _ := strings.Cut(line, " ")
	if number != strconv.Itoa(len(l.sums)) {
		l.err = errors.Join(l.err, fmt.Errorf("%q was reported after row %d", line, len(l.sums)-1))
		return
	}
	l.sums = append(l.sums, sum)
}

// newest is the newest row that is known to be committed.
func (l *ledger) newest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sums) - 1
}

// check checks that rows are those that were committed, up to one from first to last.
func (l *ledger) check(rows []string, first, last int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	for n := range min(len(rows), len(l.sums)) {
		if rows[n] != l.sums[n] {
			return fmt.Errorf("row %d has the sum %s, it was committed with %s", n, rows[n], l.sums[n])
		}
	}
	switch newest := len(rows) - 1; {
	case newest < first:
		return fmt.Errorf("the ledger ends with row %d; row %d was committed before the point", newest, first)
	case newest > last:
		return fmt.Errorf("the ledger has row %d; row %d was the newest one after the backup", newest, last)
	}
	return nil
}

// parseRows returns the sums of rows, from lines with number and sum. The numbers have no hole.
func parseRows(text string) (sums []string, err error) {
	for line := range strings.Lines(text) {
		number, sum, _ := strings.Cut(strings.TrimSpace(line), " ")
		if number != strconv.Itoa(len(sums)) {
			return nil, fmt.Errorf("the ledger has a hole: row %s follows row %d", number, len(sums)-1)
		}
		sums = append(sums, sum)
	}
	return sums, nil
}

func TestLedgerFindsWhatIsWrong(t *testing.T) {
	l := newLedger()
	for _, line := range []string{"1 a", "2 b", "3 c", "4 d"} {
		l.record(line)
	}
	for _, c := range []struct{ rows, want string }{
		{"0 genesis\n1 a\n2 b", ""},
		{"0 genesis\n1 a\n2 b\n3 c", ""},
		{"0 genesis\n1 a", "row 2 was committed before the point"},
		{"", "row 2 was committed before the point"},
		{"0 genesis\n1 a\n2 b\n3 c\n4 d", "row 3 was the newest one after the backup"},
		{"0 genesis\n1 a\n2 x\n3 c", "row 2 has the sum x, it was committed with b"},
		{"0 genesis\n1 a\n3 c", "row 3 follows row 1"},
		{"0 genesis\n1 a\n1 a\n2 b", "row 1 follows row 1"},
	} {
		rows, err := parseRows(c.rows)
		if err == nil {
			err = l.check(rows, 2, 3)
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.rows, err, c.want)
		}
	}
	l.record("6 f")
	if err := l.check([]string{"genesis", "a", "b"}, 2, 3); err == nil {
		t.Error("a row that was not reported is not missed")
	}
}
