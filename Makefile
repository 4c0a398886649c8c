# make image   bake the default image and boot it in QEMU until it is registered
# make test    everything CI runs
# make bench   guest start and step overhead against their peers
# make lint    gofmt, vet, staticcheck, shellcheck
# make         the programs, in bin/

GO      := CGO_ENABLED=0 go
# Debian's Go does not fetch the version of go.mod unless asked.
export GOTOOLCHAIN = auto
LDFLAGS := -ldflags='-s -w'

.PHONY: all deps image test bench lint clean

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

lint: deps
	ci/lint

clean:
	rm -rf bin out
