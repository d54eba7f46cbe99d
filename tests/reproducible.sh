#!/usr/bin/env bash
# Builds the same commit twice, in folders of different names and with nothing shared, and compares what comes out, byte by byte.
# usage: tests/reproducible.sh [CARGO_ARGS..]    all of the program where none are given
#   tests/reproducible.sh --manifest-path crates/math/Cargo.toml --example judge_storm
set -euo pipefail
cd "$(git rev-parse --show-toplevel)"
[ $# -gt 0 ] || set -- --bin mindgap
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo_home=${CARGO_HOME:-$HOME/.cargo}
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_STRIP=true

for name in one another; do
    tree=$work/$name/source
    mkdir -p "$tree"
    git archive HEAD | tar -x -C "$tree"
    # No path of this machine in what is built, nor of what build scripts wrote.
    flags="--remap-path-prefix=$tree=/source --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$work/$name/target=/target"
    (cd "$tree" && RUSTFLAGS=$flags CARGO_TARGET_DIR=$work/$name/target cargo build --release --locked "$@")
    built=$work/$name/target/release
    find "$built" "$built/examples" -maxdepth 1 -type f -perm -u+x ! -name '*-*' -exec sha256sum {} + |
        sed "s|$work/$name/||" | sort -k 2 > "$work/$name.sums"
    if sed "s|^[0-9a-f]*  |$work/$name/|" "$work/$name.sums" | xargs grep -l "$work"; then
        echo "the folder of the build stands in what was built" >&2
        exit 1
    fi
    rm -rf "$work/$name"
done
test -s "$work/one.sums"
cat "$work/one.sums"
diff "$work/one.sums" "$work/another.sums" && echo "the same bytes twice"
