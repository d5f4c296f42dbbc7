# The commands of the README. One build profile (release) serves them all.
FERRIC := target/release/ferric

.PHONY: run test bench lint build clean

run: build
	$(FERRIC) demo
	exec $(FERRIC) run

build:
	.ci/setup build
	cargo build --release

test:
	.ci/setup test
	.ci/test

bench: build
	cargo bench --profile release --bench capacity

lint:
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets
	.ci/layers
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; else echo "cargo-deny is not installed: licences and advisories not checked"; fi

clean:
	cargo clean
