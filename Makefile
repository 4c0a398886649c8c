# make image   bake the default image and boot it in QEMU until it is registered
# make test    everything CI runs: needs root
# make check   lint and unit tests: needs neither root nor QEMU, and less than a minute once cached
# make bench   guests and steps against their peers, upgrades by missing blocks against whole ones
# make lint    golangci-lint, ci/rules, shellcheck, dependencies
# make         the programs and their manual pages, in bin/
#
# make test-upgrade   an appliance in QEMU upgrades itself: needs root
# make test-power     its power is cut after every flush of a first boot and of an upgrade: needs root
# make test-slow      hundreds of jobs and of kills, all hooks in the image, each fuzz target for minutes: needs root

GO      := CGO_ENABLED=0 go
# Debian's Go does not fetch the version of go.mod unless asked.
export GOTOOLCHAIN = auto
# The source goes into the programs, and nothing of the clock or this machine:
# the same commit yields the same bytes. Outside of a clone the values are empty.
VERSION := $(shell git describe --tags --always --dirty --abbrev=12 2>/dev/null)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
DATE    := $(shell TZ=UTC0 git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
INFO    := github.com/mkappliance/mkappliance/internal/buildinfo
LDFLAGS := -ldflags='-s -w -X $(INFO).version=$(VERSION) -X $(INFO).commit=$(COMMIT) -X $(INFO).date=$(DATE)'

.PHONY: all deps image test check test-slow test-upgrade test-power bench lint clean
# The set-up comes before what uses it.
.NOTPARALLEL:

all:
	$(GO) build -trimpath -buildvcs=false $(LDFLAGS) -o bin/ ./cmd/mkappliance ./cmd/runner-agent ./cmd/runner-shim
	bin/runner-agent version --json >bin/runner-agent.json
	rm -rf bin/man
	bin/mkappliance man bin/man
	bin/runner-agent man bin/man

deps:
	ci/install-deps

image: deps all
	ci/image

test: deps all lint
	ci/test

bench: deps all
	ci/bench/run
	ci/bench/run-upgrade

check:
	ci/lint fast
	$(GO) test ./...

test-upgrade: deps all
	ci/test-upgrade

test-power: deps all
	ci/test-power

test-slow: deps all
	ci/test-slow

lint:
	ci/lint

clean:
	rm -rf bin out
