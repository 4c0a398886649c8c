# make image   bake the default image and boot it in QEMU until it is registered
# make test    everything CI runs: needs root
# make check   lint and unit tests: needs neither root nor QEMU, and less than a minute once cached
# make bench   guest start and step overhead against their peers
# make lint    golangci-lint, ci/rules, shellcheck, dependencies
# make         the programs, in bin/
#
# make test-slow   each fuzz target for minutes

GO      := CGO_ENABLED=0 go
# Debian's Go does not fetch the version of go.mod unless asked.
export GOTOOLCHAIN = auto
LDFLAGS := -ldflags='-s -w'

.PHONY: all deps image test check test-slow bench lint clean
# The set-up comes before what uses it.
.NOTPARALLEL:

all:
	$(GO) build -trimpath -buildvcs=false $(LDFLAGS) -o bin/ ./cmd/mkappliance ./cmd/runner-agent ./cmd/runner-shim

deps:
	ci/install-deps

image: deps all
	ci/image

test: deps all lint
	ci/test

bench: deps all
	ci/bench/run

check:
	ci/lint fast
	$(GO) test ./...

test-slow:
	ci/fuzz $(FUZZTIME)

lint:
	ci/lint

clean:
	rm -rf bin out
