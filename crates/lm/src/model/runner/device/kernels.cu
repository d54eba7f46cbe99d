// Kernels for what candle's operators take many launches for, above all in a step of one token in every slot. Numbers are f32 on the
// way, and rounded to T where the operators they replace (blocks.rs) store them. Launched by fused.rs.
#include <cmath>
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int WARP = 32;
constexpr unsigned ALL = 0xffffffff;

__device__ inline float sum_of_warp(float x) {
    for (int other = WARP / 2; other > 0; other /= 2) x += __shfl_xor_sync(ALL, x, other);
    return x;
}

// One head of one row: bias, norm and rotary embedding. Queries come out scaled, keys and values go to the row's slot.
//   grid (heads + 2 * key_heads, rows), block WARP
//   qkv [rows, heads + 2 * key_heads, dim], bias [the same of a row] or null, norms [dim] or null, cos and sin [rows, pairs] or null,
//   at [rows]; q [rows, heads, dim], keys and values [slots, key_heads, capacity, dim]
constexpr int MOST_DIM = 256;
template <class T>
__device__ void turn(
    const T* qkv, const T* bias, const float* q_norm, const float* k_norm, const float* cos, const float* sin, const uint32_t* at,
    T* q, T* keys, T* values, int heads, int key_heads, int dim, int pairs, int capacity, float scale, float eps
) {
    __shared__ float own[MOST_DIM];
    const int head = blockIdx.x, row = blockIdx.y, lane = threadIdx.x;
    const bool is_query = head < heads, is_value = head >= heads + key_heads;
    const T* x = qkv + ((size_t)row * (heads + 2 * key_heads) + head) * dim;
    float squares = 0;
    for (int i = lane; i < dim; i += WARP) {
        float value = x[i];
        if (bias) value = T(value + float(bias[head * dim + i]));
        own[i] = value;
        squares += value * value;
    }
    const float* norm = is_query ? q_norm : k_norm;
    if (norm && !is_value) {
        const float inverse = rsqrtf(sum_of_warp(squares) / dim + eps);
        for (int i = lane; i < dim; i += WARP) own[i] = T(own[i] * inverse * norm[i]);
    }
    __syncthreads();
    T* out = q + ((size_t)row * heads + head) * dim;
    if (!is_query) {
        const int key_head = is_value ? head - heads - key_heads : head - heads;
        out = (is_value ? values : keys) + (((size_t)row * key_heads + key_head) * capacity + at[row]) * dim;
    }
    const float factor = is_query ? scale : 1;
    const bool turns = cos && !is_value;
    for (int i = lane; i < dim; i += WARP) {
        float value = own[i];
        if (turns && i < 2 * pairs) {
            const int pair = i < pairs ? i : i - pairs;
            const float c = cos[row * pairs + pair], s = sin[row * pairs + pair];
            value = i < pairs ? value * c - own[pair + pairs] * s : own[pair] * s + value * c;
        }
        out[i] = T(value * factor);
    }
}

// Attention of one row's token over what its own slot holds: some query heads of one key head, whose keys and values are read once.
//   grid (key_heads * chunks, rows), block WARPS * WARP; D features of a head are each lane's
//   q [rows, heads, dim], keys and values [slots, key_heads, capacity, dim], at [rows]; out [rows, heads, dim]
constexpr int WARPS = 4, HEADS = 4;
template <class T, int D>
__device__ void attend(
    const T* q, const T* keys, const T* values, const uint32_t* at, T* out, int heads, int key_heads, int dim, int capacity,
    int window, float softcap
) {
    __shared__ float parts[WARPS][HEADS][D * WARP], highest[WARPS][HEADS], sums[WARPS][HEADS];
    const int group = heads / key_heads, chunks = (group + HEADS - 1) / HEADS;
    const int key_head = blockIdx.x / chunks, row = blockIdx.y, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int skipped = blockIdx.x % chunks * HEADS, first = key_head * group + skipped;
    const int count = group - skipped < HEADS ? group - skipped : HEADS;
    float query[HEADS][D], sum[HEADS], most[HEADS], seen[HEADS][D];
    for (int h = 0; h < HEADS; h++) {
        sum[h] = 0;
        most[h] = -INFINITY;
        for (int d = 0; d < D; d++) {
            const int i = lane + d * WARP;
            seen[h][d] = 0;
            query[h][d] = h < count && i < dim ? float(q[((size_t)row * heads + first + h) * dim + i]) : 0;
        }
    }
    const int last = at[row], from = window > 0 && last + 1 > window ? last + 1 - window : 0;
    const size_t slot = ((size_t)row * key_heads + key_head) * capacity;
    for (int token = from + warp; token <= last; token += WARPS) {
        float key[D], value[D];
        for (int d = 0; d < D; d++) {
            const int i = lane + d * WARP;
            const size_t place = (slot + token) * dim + i;
            key[d] = i < dim ? float(keys[place]) : 0;
            value[d] = i < dim ? float(values[place]) : 0;
        }
        for (int h = 0; h < HEADS; h++) {
            float score = 0;
            for (int d = 0; d < D; d++) score += query[h][d] * key[d];
            score = sum_of_warp(score);
            if (softcap > 0) score = softcap * tanhf(score / softcap);
            if (score > most[h]) {
                const float less = expf(most[h] - score);
                most[h] = score;
                sum[h] *= less;
                for (int d = 0; d < D; d++) seen[h][d] *= less;
            }
            const float weight = expf(score - most[h]);
            sum[h] += weight;
            for (int d = 0; d < D; d++) seen[h][d] += weight * value[d];
        }
    }
    for (int h = 0; h < HEADS; h++) {
        for (int d = 0; d < D; d++) parts[warp][h][lane + d * WARP] = seen[h][d];
        if (lane == 0) {
            highest[warp][h] = most[h];
            sums[warp][h] = sum[h];
        }
    }
    __syncthreads();
    // A warp for a head.
    for (int h = warp; h < count; h += WARPS) {
        float top = highest[0][h], total = 0;
        for (int w = 1; w < WARPS; w++) top = highest[w][h] > top ? highest[w][h] : top;
        for (int w = 0; w < WARPS; w++) total += sums[w][h] * expf(highest[w][h] - top);
        for (int i = lane; i < dim; i += WARP) {
            float value = 0;
            for (int w = 0; w < WARPS; w++) value += parts[w][h][i] * expf(highest[w][h] - top);
            out[((size_t)row * heads + first + h) * dim + i] = T(value / total);
        }
    }
}

// activation(gate) * up.
//   both [rows, 2, width]; out [rows, width]
template <class T, bool IS_SILU> __device__ void gate(const T* both, T* out, int width, size_t count) {
    const size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (i >= count) return;
    const T* own = both + i / width * 2 * width + i % width;
    const float x = own[0], up = own[width];
    const float bent = IS_SILU ? x / (1 + expf(-x)) : 0.5f * x * (1 + tanhf(0.7978845608f * x * (1 + 0.044715f * x * x)));
    out[i] = T(float(T(bent)) * up);
}

// The sum x + scale * y and its norm.
//   grid (rows), block THREADS; x and y [rows, width], weight [width]; out [2, rows, width]
constexpr int THREADS = 256;
template <class T, class W>
__device__ void add_norm(const T* x, const T* y, const W* weight, T* out, int width, float scale, float eps) {
    __shared__ float parts[THREADS / WARP];
    const size_t row = (size_t)blockIdx.x * width;
    T *sum = out + row, *normed = out + (size_t)gridDim.x * width + row;
    float squares = 0;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        const float added = T(float(x[row + i]) + float(T(float(y[row + i]) * scale)));
        sum[i] = T(added);
        squares += added * added;
    }
    squares = sum_of_warp(squares);
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = squares;
    __syncthreads();
    float total = 0;
    for (int w = 0; w < THREADS / WARP; w++) total += parts[w];
    const float inverse = rsqrtf(total / width + eps);
    for (int i = threadIdx.x; i < width; i += THREADS) normed[i] = T(float(sum[i]) * inverse * float(weight[i]));
}

#define ATTEND(T, NAME, D) \
    extern "C" __global__ void attend_##D##_##NAME( \
        const T* q, const T* keys, const T* values, const uint32_t* at, T* out, int heads, int key_heads, int dim, int capacity, \
        int window, float softcap \
    ) { \
        attend<T, D>(q, keys, values, at, out, heads, key_heads, dim, capacity, window, softcap); \
    }
#define KERNELS(T, NAME) \
    extern "C" __global__ void turn_##NAME( \
        const T* qkv, const T* bias, const float* q_norm, const float* k_norm, const float* cos, const float* sin, \
        const uint32_t* at, T* q, T* keys, T* values, int heads, int key_heads, int dim, int pairs, int capacity, float scale, float eps \
    ) { \
        turn(qkv, bias, q_norm, k_norm, cos, sin, at, q, keys, values, heads, key_heads, dim, pairs, capacity, scale, eps); \
    } \
    ATTEND(T, NAME, 1) \
    ATTEND(T, NAME, 2) \
    ATTEND(T, NAME, 4) \
    ATTEND(T, NAME, 8) \
    extern "C" __global__ void silu_##NAME(const T* both, T* out, int width, size_t count) { gate<T, true>(both, out, width, count); } \
    extern "C" __global__ void gelu_##NAME(const T* both, T* out, int width, size_t count) { gate<T, false>(both, out, width, count); } \
    extern "C" __global__ void add_norm_##NAME(const T* x, const T* y, const T* weight, T* out, int width, float scale, float eps) { \
        add_norm(x, y, weight, out, width, scale, eps); \
    } \
    extern "C" __global__ void add_norm_wide_##NAME( \
        const T* x, const T* y, const float* weight, T* out, int width, float scale, float eps \
    ) { \
        add_norm(x, y, weight, out, width, scale, eps); \
    }

KERNELS(float, f32)
KERNELS(__nv_bfloat16, bf16)
KERNELS(__half, f16)
