#!/bin/bash
# Runs every test but the variations (variations.txt), or those of the packages named, on real libvirt
# and QEMU. VIRTBACKUP_TESTS=whole runs the variations, too.
# A skipped test is a failure. The whole output is kept in .cache/test.json, the output of
# failed tests in .cache/failed.log.
#
#   scripts/test.sh [go test arguments, default ./...]
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/hypervisor.sh
mkdir -p .cache
go build -o .cache/bin/testreport ./scripts/testreport
# The program under test is built once, or each package would build it.
go build -o .cache/bin/virtbackup ./cmd/virtbackup
go build -tags faults -o .cache/bin/virtbackup-faults ./cmd/virtbackup
export VIRTBACKUP_BINARY=${VIRTBACKUP_BINARY:-$PWD/.cache/bin/virtbackup}
export VIRTBACKUP_FAULTY_BINARY=$PWD/.cache/bin/virtbackup-faults
# Two packages at a time, and two tests of each: more only make tests wait for each other, for so long that
# what is to happen within a minute does not. Three tests of one package at a time leave a tenth of two
# cores idle.
# Ctrl-C ends it also beside another run, where bash has set it to be ignored.
# make lint has vet's findings.
run() { env --default-signal=INT go test -json -count=1 -vet=off -p 2 -parallel 2 -timeout 60m "$@" </dev/null; }

# The race detector touches its shadow memory, several times that of the program, for the first
# time a page at a time. Where a page fault is dear (14 us under PVM), huge pages halve the time.
export GORACE="no_huge_pages_for_shadow=0 ${GORACE:-}"

# The race detector is for the packages. The tests of the whole program run one that is built as
# users' are; their own model of power cuts takes five times as long with it. So do the tests with
# large images, many points, many random ones or a run for each call that may fail, which have no
# goroutines that smaller ones do not have, and those of command lines, which start a process for each.
norace='^Test(RandomImages|FileBytes|RandomEdits|RandomBackingFiles|DamagedLists|JoinedLengthIsThatOfQEMU|LargestDisks|LocateCompressed|Salvage|SalvageOfRandomChains|RandomTrees|PruneDisks|PruneFreed|PruneNightAfterNight|RewriteRandom|Scripts|RefusedBitmapsAndFailures|EveryCallFails|RecoverAfterEveryStep|SpilledRefcounts|ImageIsNoLargerThanQemus|CloneCost|CloneMemory|Clone[A-Za-z]+Nights|Memory|MisreadAfterEviction|MisreadHashList|ChainTooLongForQemuImg|LongChains|EditedListIsThatWrittenFromScratch)$'

packages() {
	local packages code=0
	mapfile -t packages < <(go list ./... | grep -vE '/tests(/|$)')
	run -race -skip "$norace" "${packages[@]}" || code=1
	run -run "$norace" ./backup ./cmd/virtbackup ./hashlist ./manifest ./merge ./prune ./qcow2/... ./restore ./verify || code=1
	return $code
}

# The variations as a pattern of -skip: ^TestA$|^TestB$/^subtest$. None where all tests are asked for.
variations() {
	if [ "${VIRTBACKUP_TESTS:-}" = whole ]; then return; fi
	sed -e '/^#/d' -e '/^$/d' -e 's|/|$/^|g' -e 's|.*|^&$|' scripts/variations.txt | paste -sd'|'
}

# The longest packages come first.
everything() {
	local code=0
	trap 'exit 130' INT # go test has ended by then, and bash would go on with the next one
	packages || code=1
	run -skip "$(variations)" ./tests/chains ./tests/offline ./tests/inplace ./tests/faults ./tests/guest ./tests/... || code=1
	return $code
}

tests() {
	case " $*" in
	" ") everything ;;
	*" ./tests/"*) run "$@" ;;
	*) run -race "$@" ;;
	esac
}

tests "$@" | tee .cache/test.json | .cache/bin/testreport .cache/failed.log
