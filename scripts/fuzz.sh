#!/bin/bash
# Runs every fuzz target of the tree, one after the other, each for TIME.
#
#   scripts/fuzz.sh [TIME, default 30s]
set -euo pipefail
cd "$(dirname "$0")/.."

time=${1:-30s}
grep -rlE --include='*_test.go' --exclude-dir=third_party '^func Fuzz' . | sort | while read -r file; do
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' "$file" | while read -r target; do
		echo "fuzz: $target in $(dirname "$file")"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$(dirname "$file")" </dev/null
	done
done
