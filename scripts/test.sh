#!/bin/bash
# Runs every test, or those of the packages named, on real libvirt and QEMU.
# A skipped test is a failure. The whole output is kept in .cache/test.json, that of failed tests in
# .cache/failed.log.
#
#   scripts/test.sh [go test arguments, default ./...]
set -euo pipefail
cd "$(dirname "$0")/.."

# The longest packages first: the others run beside them.
[ $# -gt 0 ] || set -- ./tests/... ./...
scripts/hypervisor.sh
mkdir -p .cache
go build -o .cache/bin/testreport ./scripts/testreport
# Most of a test is waiting, for libvirtd and for the disk: four at a time keep two
# cores busy.
go test -json -race -count=1 -parallel 4 -timeout 60m "$@" </dev/null | tee .cache/test.json | .cache/bin/testreport .cache/failed.log
