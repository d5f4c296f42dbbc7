# The commands of the README. One build profile (release) serves them all.
FERRIC := target/release/ferric

.PHONY: run test interop fuzz bench cluster-demo cluster-rounds lint build clean

run: build
	$(FERRIC) demo
	exec $(FERRIC) run

build:
	.ci/setup build
	cargo build --release

test:
	.ci/setup test
	.ci/test

# make interop CORPUS=DIR: plays a folder of messages to a node, with RTP, and looks at what was recorded.
interop: build
	.ci/setup test
	@test -n "$(CORPUS)" || { echo "name the folder: make interop CORPUS=DIR" >&2; exit 2; }
	target/venv/bin/python tests/interop/play.py "$(CORPUS)" $(if $(NODE),--node $(NODE) --api $(API) --token $(or $(TOKEN),$(TOKEN_FILE)) --key $(KEY)) $(ARGS)

# make fuzz: explores the parsers for a bounded time (SECONDS_EACH, 30 a target).
fuzz:
	.ci/setup build
	tests/fuzz/run.sh

bench: build
	cargo bench --profile release --bench capacity
	python3 tests/bench/edge.py

# make cluster-demo: two sites on this machine (root: network namespaces); kills one thing after the other, prints what it cost.
cluster-demo: build
	.ci/setup test
	target/venv/bin/python tests/cluster/demo.py $(ARGS)

# make cluster-rounds: the same with random timing, 20 rounds a kind: hours. ARGS="--rounds 3 --only worker".
cluster-rounds: build
	.ci/setup test
	target/venv/bin/python tests/cluster/rounds.py $(ARGS)

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets
	.ci/layers
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: licences and advisories not checked"; fi

clean:
	cargo clean
