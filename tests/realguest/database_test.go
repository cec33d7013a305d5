//go:build realguest

package realguest

import (
	"strconv"
	"strings"
	"testing"

	"github.com/virtbackup/virtbackup/tests/testdomain"
)

// query asks the database bank.
func query(d *testdomain.Domain, sql string) string {
	return strings.TrimSpace(d.ExecInput("runuser -u postgres -- psql -qAtX -F ' ' -v ON_ERROR_STOP=1 bank", []byte(sql)))
}

// newestRow is the number of the newest row of the ledger.
func newestRow(t *testing.T, d *testdomain.Domain) int {
	t.Helper()
	n, err := strconv.Atoi(query(d, "SELECT max(n) FROM ledger"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ledgerRows is the sum of each row of the ledger.
func ledgerRows(t *testing.T, d *testdomain.Domain) []string {
	t.Helper()
	rows, err := parseRows(query(d, "SELECT n, sum FROM ledger ORDER BY n"))
	if err != nil {
		t.Error(err)
	}
	return rows
}

// unchained selects the rows of the ledger whose sum is not that of the row before, the number
// and the payload.
const unchained = `SELECT n FROM (SELECT *, lag(sum) OVER (ORDER BY n) AS before FROM ledger) row
	WHERE n > 0 AND sum IS DISTINCT FROM md5(before || ' ' || n || ' ' || payload) LIMIT 5`

// unbalanced selects the sums of pgbench's tables if they differ: each transaction adds the same
// amount to an account, a teller and a branch, and notes it in the history.
const unbalanced = `SELECT a, t, b, h FROM (SELECT sum(abalance) FROM pgbench_accounts) a(a),
	(SELECT sum(tbalance) FROM pgbench_tellers) t(t), (SELECT sum(bbalance) FROM pgbench_branches) b(b),
	(SELECT sum(delta) FROM pgbench_history) h(h) WHERE (a = t AND a = b AND a = h) IS NOT TRUE`

// checkDatabase looks for corruption in a database that has recovered, uses it, and stops it.
func checkDatabase(t *testing.T, d *testdomain.Domain) {
	t.Helper()
	if wrong := query(d, unchained); wrong != "" {
		t.Errorf("rows of the ledger do not follow from those before: %q", wrong)
	}
	if sums := query(d, unbalanced); sums != "" {
		t.Errorf("accounts, tellers, branches and history of pgbench have the sums %s", sums)
	}
	for _, command := range []string{
		"pg_amcheck --all --install-missing --heapallindexed --rootdescend",
		"pg_dumpall >/dev/null",
		"pgbench --no-vacuum --transactions=20 bank",
	} {
		d.Exec("exec 2>&1; cd /usr/lib/postgresql/*/bin && runuser -u postgres -- ./" + command)
	}
	d.Exec("exec 2>&1; systemctl stop 'postgresql@*' && cd /var/lib/postgresql/*/main && " +
		"runuser -u postgres -- /usr/lib/postgresql/*/bin/pg_checksums --check --pgdata=.")
}
