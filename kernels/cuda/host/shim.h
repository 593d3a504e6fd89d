// CUDA for g++: the kernels' own sources as an ordinary program, for AddressSanitizer, UBSan and ThreadSanitizer.
//
// Every thread of a block is a fiber of its own, blocks run one after the other. The sanitizers know the fibers; for
// ThreadSanitizer nothing but a barrier orders them, so a barrier that is missing is a race, whoever happened to run first.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct __attribute__((aligned(8))) uint2 { unsigned x, y; };
struct __attribute__((aligned(16))) uint4 { unsigned x, y, z, w; };
struct __attribute__((aligned(16))) int4 { int x, y, z, w; };
struct __attribute__((aligned(16))) float4 { float x, y, z, w; };

namespace shim {
struct Thread { uint3 index; unsigned number; };
extern Thread* current;
extern uint3 block, block_dim, grid_dim;
void barrier(const char* where);
void warp_barrier(unsigned mask, bool orders_memory, const char* where);
uint64_t exchange(unsigned mask, uint64_t value, int from, const char* where);
void* launch_shared();
/// Runs a kernel on a grid, with bytes of shared memory that the launch gives.
void launch(uint3 grid, unsigned threads, size_t shared, const char* name, const std::function<void()>& kernel);
}  // namespace shim

#define threadIdx (shim::current->index)
#define blockIdx (shim::block)
#define blockDim (shim::block_dim)
#define gridDim (shim::grid_dim)
#define SHIM_STRING_(x) #x
#define SHIM_STRING(x) SHIM_STRING_(x)
#define __syncthreads() shim::barrier(__FILE__ ":" SHIM_STRING(__LINE__))
#define SHARED_BY_LAUNCH(T, name) T* name = static_cast<T*>(shim::launch_shared())
#define LOAD_CONST(p) (*(p))

inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::warp_barrier(mask, true, "__syncwarp"); }

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int distance, int = 32) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shim::exchange(mask, bits, (int)(shim::current->number & 31) ^ distance, "__shfl_xor_sync");
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline int __dp4a(int a, int b, int c) {
    unsigned sum = (unsigned)c;
    for (int i = 0; i < 32; i += 8) sum += (unsigned)((int)(int8_t)((unsigned)a >> i) * (int)(int8_t)((unsigned)b >> i));
    return (int)sum;
}

template <class To, class From>
inline To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }
inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
inline T min(T a, T b) { return a < b ? a : b; }
template <class T>
inline T max(T a, T b) { return a > b ? a : b; }

struct __half { uint16_t bits; };
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half h) { return h.bits; }
inline float __half2float(__half h) {
    unsigned sign = (unsigned)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, mantissa = h.bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
    return __uint_as_float(sign | __float_as_uint((float)mantissa * 5.9604644775390625e-8f));
}
inline __half __float2half_rn(float x) {
    unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return {(uint16_t)(sign | 0x7fff)};
    if (bits >= 0x477ff000) return {(uint16_t)(sign | 0x7c00)};
    if (bits >= 0x38800000) {
        unsigned shifted = bits - 0x38000000;
        return {(uint16_t)(sign | (shifted + 0xfff + (shifted >> 13 & 1)) >> 13)};
    }
    return {(uint16_t)(sign | (unsigned)nearbyintf(__uint_as_float(bits) * 16777216.0f))};
}
