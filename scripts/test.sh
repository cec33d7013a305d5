#!/bin/bash
# Runs every test, or those of the packages named, on real libvirt and QEMU.
# A skipped test is a failure. The whole output is kept in .cache/test.json, the output of
# failed tests in .cache/failed.log.
#
#   scripts/test.sh [go test arguments, default ./...]
set -euo pipefail
cd "$(dirname "$0")/.."

# The longest packages first: the others run in parallel with them.
[ $# -gt 0 ] || set -- ./tests/faults ./tests/chains ./tests/guest ./tests/... ./...
scripts/hypervisor.sh
mkdir -p .cache
go build -o .cache/bin/testreport ./scripts/testreport
# The program under test is built once, or each package would build it.
go build -o .cache/bin/virtbackup ./cmd/virtbackup
go build -tags faults -o .cache/bin/virtbackup-faults ./cmd/virtbackup
export VIRTBACKUP_BINARY=${VIRTBACKUP_BINARY:-$PWD/.cache/bin/virtbackup}
export VIRTBACKUP_FAULTY_BINARY=$PWD/.cache/bin/virtbackup-faults
# Tests mostly wait, for libvirtd and for the disk. With three tests at a time of each of three
# packages two cores are busy, and no test waits so long that it fails; with two packages, which
# is what Go does there, they were busy for two thirds of the time.
go test -json -race -count=1 -p 3 -parallel 3 -timeout 60m "$@" </dev/null | tee .cache/test.json | .cache/bin/testreport .cache/failed.log
