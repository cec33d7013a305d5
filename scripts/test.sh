#!/bin/bash
# Runs every test, or those of the packages named, on real libvirt and QEMU.
# A skipped test is a failure. The whole output is kept in .cache/test.json, that of failed tests in
# .cache/failed.log.
#
#   scripts/test.sh [go test arguments, default ./...]
set -euo pipefail
cd "$(dirname "$0")/.."

# The longest packages first: the others run beside them.
[ $# -gt 0 ] || set -- ./tests/faults ./tests/chains ./tests/guest ./tests/... ./...
scripts/hypervisor.sh
mkdir -p .cache
go build -o .cache/bin/testreport ./scripts/testreport
# The program under test, once for all packages: each would build it for itself.
go build -o .cache/bin/virtbackup ./cmd/virtbackup
go build -tags faults -o .cache/bin/virtbackup-faults ./cmd/virtbackup
export VIRTBACKUP_BINARY=${VIRTBACKUP_BINARY:-$PWD/.cache/bin/virtbackup}
export VIRTBACKUP_FAULTY_BINARY=$PWD/.cache/bin/virtbackup-faults
# Most of a test is waiting, for libvirtd and for the disk. Go runs as many packages at
# a time as there are cores: with three tests of each, two cores are busy, and no test
# waits for so long that it fails.
go test -json -race -count=1 -parallel 3 -timeout 60m "$@" </dev/null | tee .cache/test.json | .cache/bin/testreport .cache/failed.log
