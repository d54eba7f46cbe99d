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

# No path of this machine in what is built. A wrapper says so, not RUSTFLAGS: cargo names files by those, and the two folders would
# name them differently.
cat > "$work/rustc" <<'END'
#!/bin/sh
exec "$@" $REMAP
END
chmod +x "$work/rustc"

for name in one another; do
    tree=$work/$name/source
    target=$work/$name/target
    mkdir -p "$tree"
    git archive HEAD | tar -x -C "$tree"
    remap="--remap-path-prefix=$tree=/source --remap-path-prefix=$target=/target --remap-path-prefix=$cargo_home=/cargo"
    (cd "$tree" && REMAP=$remap RUSTC_WRAPPER=$work/rustc CARGO_TARGET_DIR=$target cargo build --release --locked "$@")
    find "$target/release" "$target/release/examples" -maxdepth 1 -type f -perm -u+x ! -name '*-*' -exec sha256sum {} + |
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
