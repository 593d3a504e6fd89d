// What all kernels share: names of types, sums over a warp, loads of any alignment.
//
// Freestanding C++17 for NVRTC, and for g++ with host/shim.h (OSTRO_HOST). Everything is inlined, so that
// the PTX has no functions but the kernels.
#pragma once
#ifdef OSTRO_HOST
#include "host/shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
// Shared memory whose size the launch gives.
#define SHARED_BY_LAUNCH(T, name)                             \
    extern __shared__ __align__(16) unsigned char shared_[]; \
    T* name = reinterpret_cast<T*>(shared_)
#define LOAD_CONST(p) __ldg(p)
#endif

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WARP 32
#define ALL_LANES 0xffffffffu
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void

/// Lower than any score, and finite, so that a difference of two is never NaN.
#define LOWEST (-1.0e38f)

/// NVRTC 12.0 leaves __dp4a as a function that nobody defines; the instruction itself is sure.
DEVICE int dp4a(int a, int b, int c) {
#ifdef OSTRO_HOST
    return __dp4a(a, b, c);
#else
    int r;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
#endif
}

DEVICE float warp_sum(float v) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step, WARP);
    return v;
}

DEVICE float warp_max(float v) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, step, WARP));
    return v;
}

DEVICE int warp_sum(int v) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(ALL_LANES, v, step, WARP);
    return v;
}

/// The sum over a block of at most 32 warps, known to all threads. `partial` has 33 floats.
DEVICE float block_sum(float v, float* partial) {
    int warps = blockDim.x / WARP;
    v = warp_sum(v);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = v;
    __syncthreads();
    if (threadIdx.x < WARP) {
        float all = warp_sum(threadIdx.x < warps ? partial[threadIdx.x] : 0.0f);
        if (threadIdx.x == 0) partial[32] = all;
    }
    __syncthreads();
    return partial[32];
}

/// Four bytes at an address that is a multiple of ALIGN.
template <int ALIGN>
DEVICE u32 word_at(const u8* p) {
    if (ALIGN >= 4) return *reinterpret_cast<const u32*>(p);
    if (ALIGN == 2) {
        const u16* h = reinterpret_cast<const u16*>(p);
        return (u32)h[0] | (u32)h[1] << 16;
    }
    return (u32)p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}

template <int ALIGN>
DEVICE u16 half_word_at(const u8* p) {
    if (ALIGN >= 2) return *reinterpret_cast<const u16*>(p);
    return (u16)(p[0] | p[1] << 8);
}

DEVICE float half_bits(u16 bits) { return __half2float(__ushort_as_half(bits)); }

/// Bit i of the lowest four becomes the lowest bit of byte i.
DEVICE u32 bits_to_bytes(u32 bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }

/// Takes `c` off each byte. Bytes and `c` are below 128.
DEVICE int minus_bytes(u32 bytes, u32 c) { return (int)(((bytes | 0x80808080u) - c * 0x01010101u) ^ 0x80808080u); }

/// Rounds to the 11 significant bits of an f16 and keeps the range of an f32: what ggml's scales of 32 activations have.
DEVICE float half_precision(float d) {
    u32 bits = __float_as_uint(d);
    return __uint_as_float((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFFu);
}
