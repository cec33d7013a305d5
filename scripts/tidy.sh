#!/bin/bash
# Runs `go mod tidy`, even if the host of the libnbd module cannot be reached:
# go mod tidy ignores go.work, so a copy of the tree gets a replace line.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard -- '*.go' go.mod go.sum |
	while IFS= read -r -d '' file; do
		[ ! -f "$file" ] || cp --parents "$file" "$copy"
	done
sums=$(grep '^libguestfs.org/libnbd ' go.sum)
(
	cd "$copy"
	export GOWORK=off
	if [ -d "$OLDPWD/third_party/libnbd" ]; then
		go mod edit "-replace=libguestfs.org/libnbd=$OLDPWD/third_party/libnbd"
	fi
	go mod tidy
	go mod edit -dropreplace=libguestfs.org/libnbd
	printf '%s\n' "$sums" | LC_ALL=C sort -u - go.sum -o go.sum
)
cp "$copy/go.mod" "$copy/go.sum" .
