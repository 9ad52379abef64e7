# verify writes nothing; fix repairs what a machine can. See CONTRIBUTING.md.

GO         ?= go
FUZZTIME   ?= 1m
BENCH      ?= .
HISTORIES  ?= 300
ROUNDS     ?= 5
MUTANTS    ?= .
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2

# The modules below the main one, each a directory with a go.mod.
NESTED = $(patsubst %/go.mod,%,$(sort $(shell find internal -name go.mod)))

.PHONY: all verify fix build test race fuzz lincheck bench bench-peers mutants

all: verify

verify:
	@unformatted="$$(gofmt -l .)"; if [ -n "$$unformatted" ]; then echo "not formatted:"; echo "$$unformatted"; exit 1; fi
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) doc -all . > /dev/null
	$(GO) test -race ./...
	@set -e; for module in $(NESTED); do echo "in $$module"; (cd "$$module" && $(GO) mod tidy -diff && $(GO) vet ./... && $(STATICCHECK) ./... && $(GO) test -race ./...); done

fix:
	gofmt -w .
	$(GO) mod tidy

build:
	$(GO) build ./...

test:
	$(GO) test ./...

race:
	$(GO) test -race ./...

# Go fuzzes one target of one package at a time.
fuzz:
	@set -e; for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
			echo "$$package $$target, $(FUZZTIME)"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$package"; \
		done; \
	done

# The histories stay, with a page for each register that is not linearizable.
lincheck:
	rm -rf bin/histories
	mkdir -p bin/histories
	$(GO) test -count=1 -run '^TestSimulation$$' . -sim.seeds=$(HISTORIES) -sim.histories=bin/histories
	cd internal/lincheck && $(GO) run . -html ../../bin/histories ../../bin/histories

bench:
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

# This library beside others, for ROUNDS rounds. When it is started again it goes on.
bench-peers:
	cd internal/bench && $(GO) run . -rounds $(ROUNDS) -readme ../../README.md

# Whether the tests notice mistakes: one after another is made in a copy.
mutants:
	$(GO) run ./internal/mutants -run '$(MUTANTS)'
