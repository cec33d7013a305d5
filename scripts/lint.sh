#!/bin/bash
# Checks format, vet, staticcheck and the imports between packages (.golangci.yml),
# the packages that must build without cgo, and the scripts. The linter is built once.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v2.15.0
module=github.com/golangci/golangci-lint/v2/cmd/golangci-lint
linter=$PWD/.cache/bin/golangci-lint-$version-$(go env GOVERSION)

if [ ! -x "$linter" ]; then
	echo "lint: building golangci-lint $version (once, about 90 s)"
	mkdir -p .cache/bin/new
	GOWORK=off GOFLAGS='' GOBIN=$PWD/.cache/bin/new go install "$module@$version" 2>.cache/lint.log || {
		cat .cache/lint.log >&2
		exit 1
	}
	mv .cache/bin/new/golangci-lint "$linter"
fi

echo "lint: golangci-lint"
"$linter" run ./...

echo "lint: the build with fault injection"
go vet -tags faults ./internal/fault ./cmd/virtbackup
echo "lint: the tests of firmware, of libguestfs and of a real guest"
go vet -tags firmware ./tests/firmware
"$linter" run --build-tags libguestfs ./tests/files
"$linter" run --build-tags realguest ./tests/realguest

echo "lint: packages without cgo"
pure=(./drill/machine ./drill/record ./xml/... ./extent ./qcow2/... ./flatten ./internal/directio ./internal/digest ./internal/localfile ./manifest ./instants ./hashlist ./damage ./pointfile ./diskimage ./merge ./repository ./verify)
CGO_ENABLED=0 go vet "${pure[@]}" ./nbdcopy
cgo=$(go list -deps -f '{{if not .Standard}}{{range .CgoFiles}}{{$.ImportPath}}/{{.}} {{end}}{{end}}' "${pure[@]}")
if [ -n "${cgo// /}" ]; then
	echo "lint: these need cgo: $cgo" >&2
	exit 1
fi

if command -v shellcheck >/dev/null; then
	echo "lint: shellcheck"
	shellcheck scripts/*.sh .ci/run contrib/drill/ask-postgresql
fi
