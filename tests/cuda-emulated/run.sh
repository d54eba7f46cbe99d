#!/bin/bash
# The CUDA build without a GPU: builds the program with the feature `cuda` against an emulated driver (driver.cpp), and on it
#   - runs the tests that want a GPU,
#   - runs the smoke pipeline, and compares every sampled text with the CPU's.
# Needs g++ on Linux; no CUDA toolkit, as kernels are compiled for the host. Run by `make test-cuda-emulated`; builds apart from the
# usual program, in <target>/cuda-emulated. What was called how often comes to counts-*.txt there.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
cargo=${CARGO:-cargo}
command -v g++ ar > /dev/null || { echo "skipped: the emulated CUDA driver needs g++ and ar"; exit 0; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "skipped: the emulated CUDA driver is for Linux on x86-64"; exit 0; }

export CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/cuda-emulated
work=$CARGO_TARGET_DIR/emulation
mkdir -p "$work"/{headers/cuda/std,kernels,toolkit/{bin,include,lib64}}
touch "$work"/headers/{cuda_fp16.h,cuda_bf16.h,cuda_fp8.h,cuda/std/limits} "$work/toolkit/include/cuda.h"

source_of() {
    $cargo metadata --locked --features cuda --format-version 1 | grep -oE '"manifest_path":"[^"]*/'"$1"'-[^"/]*/Cargo.toml"' | head -1 | cut -d'"' -f4 | xargs dirname
}
candle=$(source_of candle-kernels)/src
cudarc=$(source_of cudarc)/src

# Kernels for tensors, candle's and our own, one file at a time; a namespace keeps what their headers define apart.
compile="g++ -std=c++17 -O2 -fno-strict-aliasing -fPIC -w -I $here -I $work/headers -I $candle"
for name in affine binary cast fill indexing reduce ternary unary kernels; do
    object=$work/kernels/$name.o source=$candle/$name.cu
    [ $name = kernels ] && source=$PWD/crates/lm/src/model/runner/device/kernels.cu
    [ "$object" -nt "$here/device.h" ] && [ "$object" -nt "$source" ] && continue
    names=$($compile -x c++ -include device.h -E -P "$source" | grep -oE 'extern "C" +void +[A-Za-z0-9_]+' | awk '{print $4}' | sort -u)
    {
        echo '#include "device.h"'
        echo "namespace { extern \"C++\" {"
        echo "#include \"$source\""
        for kernel in $names; do echo "KernelOf kernel_$kernel(\"$kernel\", $kernel);"; done
        echo "} }"
    } > "$work/kernels/$name.cpp"
    $compile -c "$work/kernels/$name.cpp" -o "$object"
done

# The driver, and a stub for every other function that is linked to.
{
    echo '#include <stdio.h>'
    {
        grep -ohE '\bfn (cu|cublas|cublasLt|curand|nvrtc)[A-Za-z0-9_]+' -r "$cudarc"/{driver,cublas,cublaslt,curand,nvrtc,runtime}/sys
        grep -ohE '\bfn [a-z0-9_]+' "$candle/ffi.rs"
    } | awk '{print $2}' | sort -u | while read -r name; do
        echo "__attribute__((weak)) int $name(void) { fprintf(stderr, \"emulated CUDA: $name is not emulated\\n\"); return 801; }"
    done
} > "$work/stubs.c"
gcc -O1 -fPIC -w -c "$work/stubs.c" -o "$work/stubs.o"
$compile -O3 -c "$here/driver.cpp" -o "$work/driver.o"
library=$work/toolkit/lib64/libemulated-cuda.so
g++ -shared -Wl,-soname,libemulated-cuda.so -o "$library" "$work"/driver.o "$work"/kernels/*.o "$work/stubs.o"
for name in cuda cublas cublasLt curand cudart nvrtc; do ln -sf libemulated-cuda.so "$work/toolkit/lib64/lib$name.so"; done
cp "$here/nvcc" "$work/toolkit/bin/nvcc"
chmod +x "$work/toolkit/bin/nvcc"

export DEVICE_H=$here/device.h HEADERS=$work/headers
export CUDA_HOME=$work/toolkit NVCC=$work/toolkit/bin/nvcc CUDA_COMPUTE_CAP=80 PATH=$work/toolkit/bin:$PATH
export LD_LIBRARY_PATH=$work/toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
$cargo build --release --locked --workspace --features cuda --bin mindgap
mindgap=$CARGO_TARGET_DIR/release/mindgap

MINDGAP_GPU_TESTS=1 EMULATED_COUNTS=$work/../counts-tests.txt \
    $cargo test --release --locked --workspace --features cuda --lib gpu -- --test-threads 1

pipeline=pipelines/smoke.toml
rm -rf "$work/cpu" "$work/gpu"
"$mindgap" --store "$work/cpu" run "$pipeline"
EMULATED_COUNTS=$CARGO_TARGET_DIR/counts-smoke.txt "$mindgap" --store "$work/gpu" run "$pipeline" --device cuda
texts() {
    for stage in rollouts guided eval_rollouts-base eval_rollouts-sft eval_rollouts-dr+dft; do
        "$mindgap" --store "$1" show "$pipeline" "$stage" --columns problem_id,sample_index,token_ids --limit 100000 --json
    done
}
texts "$work/cpu" > "$work/cpu.txt"
texts "$work/gpu" > "$work/gpu.txt"
[ -s "$work/cpu.txt" ] || { echo "no text was sampled"; exit 1; }
# A draw within rounding of a border may fall on its other side.
others=$(diff "$work/cpu.txt" "$work/gpu.txt" | grep -c '^>' || true)
echo "$others of $(wc -l < "$work/cpu.txt") sampled texts differ between the CPU and the emulated GPU"
[ "$others" -le 2 ] && [ "$(wc -l < "$work/cpu.txt")" = "$(wc -l < "$work/gpu.txt")" ]
