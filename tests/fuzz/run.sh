#!/usr/bin/env bash
# Explores each fuzz target for SECONDS_EACH (30) seconds from the corpus in testdata/fuzz. What it finds new stays in
# target/fuzz/corpus; an input that breaks something is named, and belongs into testdata/fuzz once it is mended.
set -euo pipefail
cd "$(dirname "$0")/../.."
export CARGO_TARGET_DIR=$PWD/target/fuzz
# Coverage for libFuzzer on the stable compiler.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
command -v c++ >/dev/null || { echo "libFuzzer is C++: apt-get install g++" >&2; exit 1; }
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --manifest-path tests/fuzz/Cargo.toml --target "$host"
failed=0
for target in ${TARGETS:-message sdp metadata rtp rtcp srtp}; do
    mkdir -p "target/fuzz/corpus/$target"
    echo "== $target"
    "target/fuzz/$host/release/$target" -max_total_time="${SECONDS_EACH:-30}" -max_len=16384 -timeout=5 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="target/fuzz/$target-" "target/fuzz/corpus/$target" "testdata/fuzz/$target" 2>"target/fuzz/$target.log" || failed=1
    grep -E "DONE|stat::number_of_executed_units|SUMMARY|panicked|Test unit written" "target/fuzz/$target.log" || true
done
exit $failed
