# virtbackup. `make help` names the targets.
SHELL := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=
GO ?= go

# The commit, for --version; nothing where there is no git, or no repository. The number
# of the version is in cmd/virtbackup/version.go.
REVISION ?= $(shell git describe --always --dirty --exclude='*' 2>/dev/null)

.DEFAULT_GOAL := build

.PHONY: help
help: ## Names the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

.PHONY: deps
deps: ## Installs what building and testing need (Debian), and the libnbd binding.
	@scripts/deps.sh

.PHONY: build
build: ## Builds bin/virtbackup.
	$(GO) build -trimpath -ldflags '-X main.revision=$(REVISION)' -o bin/virtbackup ./cmd/virtbackup

.PHONY: test
test: deps ## Runs every test but variations of others and slow ones; a skipped one is a failure.
	@scripts/test.sh

.PHONY: whole
whole: deps ## Runs every test but slow ones (over an hour): also the variations of scripts/variations.txt.
	@VIRTBACKUP_TESTS=whole scripts/test.sh

# What takes long because a guest boots in a way that TCG is slow at; CI runs it.
.PHONY: test-all
test-all: test realguest libguestfs ## Runs make test, and the slow ones: real firmware and a real guest boot.
	@scripts/test.sh -tags firmware ./tests/firmware

.PHONY: realguest
realguest: deps ## Boots each point of a Debian with PostgreSQL at work (ten minutes; needs root).
	@scripts/test.sh -tags realguest -parallel 2 -v ./tests/realguest

# libguestfs, and the kernel that it boots, are installed for this alone.
.PHONY: libguestfs
libguestfs: deps ## Reads the files of points with libguestfs (minutes without KVM; needs root).
	@scripts/deps.sh libguestfs
	@scripts/test.sh -tags libguestfs -v ./tests/files

.PHONY: test-debian13
test-debian13: ## Runs every test on Debian 13, in namespaces (needs root; see scripts/on-debian-13.sh).
	@scripts/on-debian-13.sh make c23 test

.PHONY: unit
unit: deps ## Runs the tests that need no daemon (under a minute on two cores).
	@$(GO) test -short $$($(GO) list ./... | grep -vE '/tests(/(bench|chains|cli|damage|docs|drill|faults|files|firmware|guest|inplace|instant|nights|offline|realguest|recover|restores|serve))?$$')

SOAK ?= 30m
.PHONY: soak
soak: deps ## Runs the oracle test for longer (SOAK=30m).
	@VIRTBACKUP_SOAK='$(SOAK)' scripts/test.sh -timeout 0 -v -run Oracle ./tests/chains

# All points of a run, broken in every way: some 1000 faults of backups, 5000 of prune and 760 of
# restores, and what else the tests break. FAULTS chooses tests.
FAULTS ?= Fault|Broken|Readers|PowerLoss|Signal|Kill|SecondRun|ForeignJob|ReadOnly|FullRepository|Recover|Damage|Verify
.PHONY: faults
faults: deps ## Breaks virtbackup and what is around it, at every point (about an hour).
	@VIRTBACKUP_FAULTS=all scripts/test.sh -timeout 2h -v -run '$(FAULTS)' ./tests/...

NIGHTS ?= 400
.PHONY: nights
nights: deps ## Lets 400 nights of backups, prunes and kills go by, six times (NIGHTS=400; needs root).
	@NIGHTS='$(NIGHTS)' scripts/test.sh -timeout 0 -v ./tests/nights ./merge

FUZZTIME ?= 30s
.PHONY: fuzz
fuzz: deps ## Runs each fuzz target for a while (FUZZTIME=30s).
	@scripts/fuzz.sh '$(FUZZTIME)'

# Some rows only, or another number of rounds: see tests/bench/main_test.go.
.PHONY: bench
bench: deps ## Measures virtbackup, its peers and its budgets (about an hour, on a quiet machine).
	@VIRTBACKUP_BENCH=full $(GO) test -count=1 -timeout 8h -v -run '^TestBench$$' ./tests/bench

# Only gcc 13 and later refuse what C23 does, so CI runs this on Debian 13. The options of
# CGO_CFLAGS come before those of the packages.
.PHONY: c23
c23: deps ## Builds as gcc 15 does by default (C23), with warnings as errors.
	@CGO_CFLAGS='-g -O2 -std=gnu2x -Werror' $(GO) build -o /dev/null ./cmd/virtbackup

.PHONY: lint
lint: deps ## Checks format, code, the arrows between packages, and the scripts.
	@scripts/lint.sh

.PHONY: demo
demo: deps build ## A guided tour with a throwaway guest, in under three minutes.
	@scripts/demo.sh

.PHONY: install
install: build ## Installs the binary, the systemd units and the documents (DESTDIR, PREFIX).
	install -D -m 0755 bin/virtbackup '$(DESTDIR)$(PREFIX)/bin/virtbackup'
	install -d -m 0755 '$(DESTDIR)$(PREFIX)/share/doc/virtbackup/docs'
	install -m 0644 *.md LICENSE '$(DESTDIR)$(PREFIX)/share/doc/virtbackup'
	install -m 0644 docs/*.md '$(DESTDIR)$(PREFIX)/share/doc/virtbackup/docs'
	install -D -m 0755 contrib/drill/ask-postgresql '$(DESTDIR)$(PREFIX)/share/doc/virtbackup/drill/ask-postgresql'
	install -d -m 0755 '$(DESTDIR)$(PREFIX)/lib/systemd/system'
	for unit in contrib/systemd/*; do \
		sed 's|/usr/local/bin/virtbackup|$(PREFIX)/bin/virtbackup|g' "$$unit" \
			>'$(DESTDIR)$(PREFIX)/lib/systemd/system/'"$${unit##*/}" || exit 1; \
	done

.PHONY: tidy
tidy: ## go mod tidy, also where the libnbd module's host cannot be reached.
	@scripts/tidy.sh

.PHONY: clean
clean: ## Removes what was built, and the caches.
	rm -rf bin .cache
