// CUDA's language on the host, as far as candle's kernels for tensors use it: they are compiled with this before their first line.
// A block's threads are fibers of one thread of the host (driver.cpp), so that shared variables are static ones.
#pragma once
#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __restrict__
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

struct Dim3 { unsigned x, y, z; };
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

// Until every thread of the block is here.
void __syncthreads();
// Until every lane of the warp is here; then another lane's number.
uint64_t exchange(uint64_t mine, unsigned lane_mask);

template <class To, class From> To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, mask);
    memcpy(&value, &bits, sizeof value);
    return value;
}

// Numbers of 16 bits: every operation is one of f32, rounded.
template <class Format> struct Narrow {
    uint16_t bits;
    Narrow() = default;
    template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>> Narrow(T x) : bits(Format::narrow((float)x)) {}
    operator float() const { return Format::widen(bits); }
    Narrow& operator+=(Narrow other) { return *this = *this + other; }
    Narrow& operator*=(Narrow other) { return *this = *this * other; }
};
#define OPERATOR(op) \
    template <class F> Narrow<F> operator op(Narrow<F> a, Narrow<F> b) { return Narrow<F>((float)a op (float)b); }
OPERATOR(+) OPERATOR(-) OPERATOR(*) OPERATOR(/)
#undef OPERATOR

struct Bf16 {
    static float widen(uint16_t bits) { return same_bits<float>((uint32_t)bits << 16); }
    static uint16_t narrow(float x) {
        if (std::isnan(x)) return 0x7fff;
        uint32_t bits = same_bits<uint32_t>(x);
        return (bits + 0x7fff + (bits >> 16 & 1)) >> 16; // to the nearest, of two the even one
    }
};
struct F16 {
    static float widen(uint16_t bits) { return (float)same_bits<_Float16>(bits); }
    static uint16_t narrow(float x) { return same_bits<uint16_t>((_Float16)x); }
};
typedef Narrow<Bf16> __nv_bfloat16;
typedef Narrow<F16> __half;
struct __nv_bfloat162 { __nv_bfloat16 x, y; };
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x + b.x, a.y + b.y}; }
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x * b.x, a.y * b.y}; }

inline float __half2float(__half x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __half __float2half(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short x) { return same_bits<__half>(x); }
#define FUNCTION(name, of) template <class F> Narrow<F> name(Narrow<F> x) { return Narrow<F>(of((float)x)); }
FUNCTION(hsqrt, sqrtf) FUNCTION(hcos, cosf) FUNCTION(hsin, sinf) FUNCTION(hlog, logf) FUNCTION(hexp, expf) FUNCTION(__habs, fabsf)
#undef FUNCTION
template <class F> bool __hisnan(Narrow<F> x) { return std::isnan((float)x); }
template <class F> Narrow<F> __hmax_nan(Narrow<F> a, Narrow<F> b) { return __hisnan(a) || (float)a > (float)b ? a : b; }
template <class F> Narrow<F> __hmin_nan(Narrow<F> a, Narrow<F> b) { return __hisnan(a) || (float)a < (float)b ? a : b; }

// Of 8 bits: named by kernels that this project does not launch.
struct __nv_fp8_e4m3 {
    uint8_t __x;
    __nv_fp8_e4m3() = default;
    explicit __nv_fp8_e4m3(double) : __x(0) {}
    operator float() const { return 0; }
};
#define __NV_E4M3 0
inline __half __nv_cvt_fp8_to_halfraw(uint8_t, int) { return 0.0f; }

struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
using std::isnan, std::max, std::min, std::signbit;
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float normcdff(float x) { return erfcf(x * (float)-M_SQRT1_2) / 2; }
inline double normcdf(double x) { return erfc(x * -M_SQRT1_2) / 2; }
inline float __uint_as_float(uint32_t x) { return same_bits<float>(x); }
inline float __int_as_float(int32_t x) { return same_bits<float>(x); }
inline uint32_t __float_as_uint(float x) { return same_bits<uint32_t>(x); }
inline int32_t __float_as_int(float x) { return same_bits<int32_t>(x); }
inline double __longlong_as_double(int64_t x) { return same_bits<double>(x); }
inline int64_t __double_as_longlong(double x) { return same_bits<int64_t>(x); }
template <class T, class V> T replace(T* at, V value) { T old = *at; *at = (T)value; return old; }
template <class T, class V> T atomicAdd(T* at, V value) { return replace(at, *at + (T)value); }
template <class T, class V> T atomicMin(T* at, V value) { return replace(at, std::min(*at, (T)value)); }
template <class T, class V> T atomicMax(T* at, V value) { return replace(at, std::max(*at, (T)value)); }
template <class T> T atomicCAS(T* at, T expected, T value) { return replace(at, *at == expected ? value : *at); }
namespace cuda { namespace std { using ::std::numeric_limits; } }

// Kernels by name, and how to run one on pointers to its arguments.
struct Kernel {
    bool waits = true; // not known to have no barrier
    unsigned threads = 0; // of the blocks that this was found out of
    virtual void run(void** arguments) = 0;
};
std::map<std::string, Kernel*>& kernels();
template <class... A> struct KernelOf : Kernel {
    void (*function)(A...);
    KernelOf(const char* name, void (*function)(A...)) : function(function) { kernels()[name] = this; }
    template <size_t... I> void call(void** arguments, std::index_sequence<I...>) { function(*(A*)arguments[I]...); }
    void run(void** arguments) override { call(arguments, std::index_sequence_for<A...>{}); }
};
