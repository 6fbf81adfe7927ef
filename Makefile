# Each target does its own set-up; stamps in .venv make that free when nothing changed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
unexport PYTHONPATH PYTHONHOME
# What a machine builds once needs no notes for the next build.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
# A name of an interpreter, for machines whose python3 is too old.
export PYTHON ?=

# Folders too: their times change when a file goes away.
RUST_SOURCES := $(shell find rust -not -path '*/tests/*' -not -name '*.md')
PINNED := .venv/.pinned
BUILT := .venv/.built

# Makes its targets one after the other, also below a make that runs two at once.
IN_ORDER := MAKEFLAGS= $(MAKE) --no-print-directory

# $(call stage,COMMANDS): runs a check and says how long it took.
stage = @printf '\n== $@\n'; SECONDS=0; $(1); printf '== $@ ok, %ss\n' $$SECONDS

.PHONY: help
help: ## Show this list
	@echo 'exprl: reinforcement learning in mid-training, with hidden reference solutions.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Needs Python 3.11-3.13, cargo, a C compiler; everything else goes into .venv and target.'

.PHONY: demo
demo: setup ## Train a small policy with ExpRL on this machine and show what it learned (minutes)
	@exprl demo $(ARGS)

WORDS_MODEL := examples/words/model/model.safetensors

.PHONY: words
words: setup $(WORDS_MODEL) ## Train a language model of 135 M parameters on word problems, and write the report
	@exprl train configs/words_process.toml $(ARGS)
	@echo 'The report: runs/words-process/report.html'

# 93 MB are fetched, 540 MB are written.
$(WORDS_MODEL): examples/words/make_model.py | setup
	@python examples/words/make_model.py examples/words/model
	@touch $@

# Rust's checks and Python's at once: each has long stretches that keep one core busy.
.PHONY: test
test: $(PINNED) | toolchain ## Prove that everything works: all checks and tests
	@$(MAKE) --no-print-directory -j2 rust-checks python-checks
	@$(MAKE) --no-print-directory pytest

# One after the other: they share target/debug.
.PHONY: rust-checks
rust-checks:
	@$(IN_ORDER) rustfmt clippy rustdoc cargo-test

# What needs no extension first, because building it takes longest.
.PHONY: python-checks
python-checks:
	@$(IN_ORDER) ruff mypy imports stub-check docs

.PHONY: setup
setup: $(BUILT) ## Make .venv with the pinned packages and build the Rust extension into it

$(PINNED): requirements/cpu.txt scripts/python-env.sh
	@scripts/python-env.sh
	@touch $@

$(BUILT): $(PINNED) pyproject.toml Cargo.toml Cargo.lock $(RUST_SOURCES) | toolchain
	@echo 'Building the Rust extension'
	@maturin develop $(if $(MAKE_TERMOUT),,--quiet) --release --uv
	@touch $@

.PHONY: toolchain
toolchain:
	@scripts/check-toolchain.sh

.PHONY: lint
lint: ## Run every check that is not a test
	@$(IN_ORDER) rustfmt clippy rustdoc ruff mypy imports stub-check docs

.PHONY: rustfmt
rustfmt: | toolchain
	$(call stage,cargo fmt --all --check)

# Rust's checks need an interpreter only to look at, and see the lock file before a build can mend it.
.PHONY: clippy
clippy: $(PINNED) | toolchain
	$(call stage,cargo clippy --quiet --locked --workspace --all-targets --all-features -- -D warnings)

.PHONY: rustdoc
rustdoc: $(PINNED) | toolchain
	$(call stage,RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --workspace --all-features --no-deps)

.PHONY: cargo-test
cargo-test: $(PINNED) | toolchain
	$(call stage,cargo test --quiet --locked --all-features)

.PHONY: ruff
ruff: $(PINNED)
	$(call stage,ruff check --quiet . && ruff format --quiet --check .)

.PHONY: mypy
mypy: $(PINNED)
	$(call stage,mypy --no-error-summary)

.PHONY: imports
imports: $(PINNED) ## Check that no room of python/exprl imports one above it
	$(call stage,PYTHONPATH=python lint-imports --no-logo)

.PHONY: stub-check
stub-check: $(BUILT)
	$(call stage,scripts/stubs.sh --check)

# Everything is read anew: a page that warned and did not change would pass the second time.
.PHONY: docs
docs: $(BUILT) ## Build the documentation's site into target/site; warnings are errors
	$(call stage,sphinx-build -E -q -W --keep-going -d target/site-cache docs target/site)

# What looks at pages skips, and says why, where there is no browser and none can be installed.
.PHONY: browser
browser:
	@scripts/browser.sh

.PHONY: pytest
pytest: $(BUILT) browser ## Run the Python tests alone (narrow them with ARGS='tests/unit -k name')
	@pytest -n 2 --dist worksteal $(ARGS)

.PHONY: format
format: $(PINNED) | toolchain ## Rewrite the sources in the house format
	@cargo fmt --all
	@ruff check --quiet --fix-only .
	@ruff format --quiet .

.PHONY: stubs
stubs: $(BUILT) ## Regenerate python/exprl/_core.pyi from the Rust binding
	@scripts/stubs.sh

.PHONY: pins
pins: $(PINNED) ## Resolve requirements/cpu.txt anew from pyproject.toml
	@uv pip compile --quiet --upgrade pyproject.toml --extra cpu --extra dev --extra cluster --universal \
		--python-version 3.11 --no-header --no-annotate -o requirements/cpu.txt

.PHONY: deny
deny: ## Check the licences and sources of the Rust dependencies (needs cargo-deny)
	@cargo deny --version >/dev/null 2>&1 || { echo 'error: cargo-deny is missing; run: cargo install --locked cargo-deny' >&2; exit 1; }
	@cargo deny check bans licenses sources

.PHONY: bench
bench: setup ## Run the benchmarks; each prints a table and appends rows to bench/results/
	@missed=0; for name in steps advantage host step sandbox numerics loss; do \
	  printf '\n== %s\n' "$$name"; python "bench/$$name.py" || missed=1; done; exit $$missed

.PHONY: bench-gpu
bench-gpu: setup ## Visit this machine's GPU: all parts, or ARGS='train loss'; rows go to gpu-out/
	@bench/gpu/run.sh $(ARGS)

.PHONY: clean
clean: ## Remove everything that make made, .venv included; runs/ stays
	rm -rf .venv .venv-tools target .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find python kernels tests bench examples -name __pycache__ -prune -exec rm -rf {} +
	rm -f python/exprl/*.so
