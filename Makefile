# varve: build, show, test. `make help` lists what there is.

export CGO_ENABLED := 0

GO        ?= go
VERSION   := $(shell scripts/version.sh)
LDFLAGS   := -s -w -X main.version=$(VERSION)
TIMEOUT   ?= 40m
FUZZTIME  ?= 30s
ROUNDS    ?= 5
DURATION  ?= 1h
OPS       ?= 10000000
PREFIX    ?= /usr/local
BINDIR    ?= $(PREFIX)/bin
DATADIR   ?= $(PREFIX)/share
# mount(8) looks for its helpers in /sbin and nowhere else.
SBINDIR   ?= $(if $(filter /usr /usr/local,$(PREFIX)),/sbin,$(PREFIX)/sbin)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help build demo test install uninstall lint race fuzz bench bench-compare bench-images bench-run soak growth many killed races programs software terminal vm start-profile clean setup

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/varve, one static binary
	@GO='$(GO)' scripts/build.sh bin/varve -trimpath -ldflags '$(LDFLAGS)'

install: build ## install binary, its other names, manual and completions (PREFIX, DESTDIR)
	@BINDIR=$(BINDIR) SBINDIR=$(SBINDIR) DATADIR=$(DATADIR) scripts/install.sh bin/varve "$(DESTDIR)"

uninstall: ## remove what install has put in place
	@BINDIR=$(BINDIR) SBINDIR=$(SBINDIR) DATADIR=$(DATADIR) scripts/install.sh --remove "$(DESTDIR)"

demo: build ## build bin/varve and run the main job, each step explained and checked
	@scripts/setup.sh demo
	@scripts/demo.sh bin/varve

setup: ## install what the tests need, or name the command
	@scripts/setup.sh test

test: setup ## run every test
	$(GO) test -timeout $(TIMEOUT) ./...

lint: ## gofmt, go vet (for arm64, too), staticcheck
	@files=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$files" ] || { echo "gofmt would change:" $$files; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

race: setup ## run every test, and the varve in it, under the race detector (needs a C compiler; PACKAGES)
	@GO='$(GO)' scripts/race.sh -timeout $(TIMEOUT) $(or $(PACKAGES),./...)

fuzz: ## run each fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME)

bench: setup ## compare speed with the peers that are here (ROUNDS=5, ROWS, PEERS: patterns)
	ROUNDS=$(ROUNDS) ROWS='$(ROWS)' PEERS='$(PEERS)' LEDGER='$(LEDGER)' COMMIT=$$(git rev-parse --short HEAD) \
		$(GO) test -run '^TestCompare$$' -v -count=1 -timeout $(TIMEOUT) ./bench

bench-compare: LEDGER = $(CURDIR)/docs/performance.md
bench-compare: bench ## the same, and add the figures to docs/performance.md

bench-images: setup ## compare import, load, commit and the lists of images with podman (ROUNDS, LEDGER: a file to add the figures to)
	ROUNDS=$(ROUNDS) LEDGER='$(LEDGER)' COMMIT=$$(git rev-parse --short HEAD) \
		$(GO) test -run '^TestCompareImages$$' -v -count=1 -timeout $(TIMEOUT) ./bench

bench-run: setup ## compare what containers cost with podman and bubblewrap (ROUNDS, LEDGER), as root
	ROUNDS=$(ROUNDS) LEDGER='$(LEDGER)' COMMIT=$$(git rev-parse --short HEAD) \
		$(GO) test -run '^TestCompareRuns$$' -v -count=1 -timeout $(TIMEOUT) ./bench

soak: setup ## the random test of the view for DURATION (1h), with its seeds
	$(GO) test -v -run '^TestSoak$$' -count=1 -timeout 0 ./unionfs -oracle.for=$(DURATION) -rapid.nofailfile

growth: setup ## show that the server of a view does not grow over OPS operations (10 million)
	$(GO) test -v -run '^TestNoGrowth$$' -count=1 -timeout 0 ./unionfs -growth.ops=$(OPS)

many: setup ## 200 processes at once on one store
	VARVE_MANY=200 $(GO) test -v -run '^TestCrowd$$' -count=1 -timeout $(TIMEOUT) ./cmd/varve

killed: setup ## kill 300 processes that write to a store, and 300 of containers of each kind of user, at random moments
	VARVE_KILLED=300 $(GO) test -v -run '^(TestKilledAtRandom|TestKilledLives)$$' -count=1 -timeout $(TIMEOUT) ./cmd/varve

races: setup ## copy 10,000 times while names are exchanged in the container, as root and as users
	VARVE_RACES=10000 $(GO) test -v -run '^(TestCopyRace|TestFilesRace|TestExtractRace)$$' -count=1 -timeout 0 ./internal/archive ./cmd/varve

programs: build ## run git, make, apt, databases and others in views (IO, OPTIONS, PROGRAMS: names), as root
	@IO='$(IO)' OPTIONS='$(OPTIONS)' scripts/programs.sh $(PROGRAMS)

software: build ## run PostgreSQL under load, make -j2, Python's tests and daemons in containers (NAMES, SECONDS_POSTGRES=600)
	@scripts/containers.sh $(NAMES)

terminal: build ## type at a shell in a container in tmux, and compare its screens with those of this machine's shell
	@scripts/terminal.sh bin/varve

vm: build ## in a virtual machine with systemd: limits on control groups of version 2, reboots, poor kernels (ACCEL=tcg, ROOTFS), as root
	@scripts/setup.sh vm
	@scripts/vm.sh bin/varve

start-profile: build ## where the milliseconds of a start go (ROUNDS=10), as root
	@ROUNDS='$(or $(filter-out 5,$(ROUNDS)),10)' scripts/start-profile.sh

clean: ## remove what was built
	rm -rf bin
	$(GO) clean -testcache
