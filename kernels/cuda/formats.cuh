// The block formats of ggml: 32 neighbouring weights as signed bytes under scales.
//
// One struct a format: a block's elements and bytes, SPLIT when each 16 weights have a scale of their own, MINIMUM when
// something is taken off, and `unpack`, which gives the 32 weights `sub` of a block as
//
//     w[i] = d[i / 16] * q[i] - m[i / 16]        q: word w holds weights 4 w .. 4 w + 3
//
// What the fields of a block mean is said by kernels/src/quantize; the layouts stand in kernels/src/block.rs.
#pragma once
#include "common.cuh"

struct Sub {
    int q[8];
    float d[2];
    float m[2];
};

/// Bytes of the grid that a format looks its weights up in, whole pieces of 16; the host uploads it (kernels/src/cuda/matrix.rs).
template <class F>
struct Grid {
    enum { BYTES = 0 };
};

DEVICE void both(float (&pair)[2], float value) { pair[0] = pair[1] = value; }

/// 16 nibble bytes: low nibbles are the first 16 weights, high ones the others.
template <int ALIGN>
DEVICE void nibbles(const u8* qs, u32 (&q)[8]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        u32 v = word_at<ALIGN>(qs + 4 * i);
        q[i] = v & 0x0f0f0f0f;
        q[i + 4] = v >> 4 & 0x0f0f0f0f;
    }
}

/// Entry of a table of 16 bytes that two words hold.
DEVICE u32 entry(u64 low, u64 high, u32 i) { return (u32)((i & 8 ? high : low) >> (i & 7) * 8) & 0xff; }

DEVICE int entries(u64 low, u64 high, u32 four) {
    return (int)(entry(low, high, four & 15) | entry(low, high, four >> 8 & 15) << 8 |
                 entry(low, high, four >> 16 & 15) << 16 | entry(low, high, four >> 24 & 15) << 24);
}

/// -127 -104 -83 -65 -49 -35 -22 -10, 1 13 25 38 53 69 89 113.
DEVICE int iq4_values(u32 four) { return entries(0xf6eaddcfbfad9881ull, 0x7159453526190d01ull, four); }
/// 0 1 2 3 4 6 8 12, 0 -1 -2 -3 -4 -6 -8 -12.
DEVICE int fp4_values(u32 four) { return entries(0x0c08060403020100ull, 0xf4f8fafcfdfeff00ull, four); }

struct Q4_0 {
    enum { ELEMS = 32, BYTES = 18, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8];
        nibbles<ALIGN>(b + 2, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = minus_bytes(q[i], 8);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

struct Q4_1 {
    enum { ELEMS = 32, BYTES = 20, ALIGN = 4, SPLIT = 0, MINIMUM = 1 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8];
        nibbles<ALIGN>(b + 4, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = (int)q[i];
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
        both(s.m, -half_bits(half_word_at<ALIGN>(b + 2)));
    }
};

struct Q5_0 {
    enum { ELEMS = 32, BYTES = 22, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8], high = word_at<ALIGN>(b + 2);
        nibbles<ALIGN>(b + 6, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = minus_bytes(q[i] | bits_to_bytes(high >> 4 * i) << 4, 16);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

struct Q5_1 {
    enum { ELEMS = 32, BYTES = 24, ALIGN = 4, SPLIT = 0, MINIMUM = 1 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8], high = word_at<ALIGN>(b + 4);
        nibbles<ALIGN>(b + 8, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = (int)(q[i] | bits_to_bytes(high >> 4 * i) << 4);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
        both(s.m, -half_bits(half_word_at<ALIGN>(b + 2)));
    }
};

struct Q8_0 {
    enum { ELEMS = 32, BYTES = 34, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = (int)word_at<ALIGN>(b + 2 + 4 * i);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

struct IQ4_NL {
    enum { ELEMS = 32, BYTES = 18, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8];
        nibbles<ALIGN>(b + 2, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = iq4_values(q[i]);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

struct MXFP4 {
    enum { ELEMS = 32, BYTES = 17, ALIGN = 1, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int, const i8*, Sub& s) {
        u32 q[8], e = b[0];
        nibbles<ALIGN>(b + 1, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = fp4_values(q[i]);
        // 2^(e - 128): the values are stored doubled.
        both(s.d, __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23));
    }
};

struct NVFP4 {
    enum { ELEMS = 64, BYTES = 36, ALIGN = 4, SPLIT = 1, MINIMUM = 0 };
    /// Half of an unsigned E4M3.
    static DEVICE float scale(u32 x) {
        u32 exponent = x >> 3 & 15, mantissa = x & 7;
        if (x == 0x7f) return 0.0f;
        if (exponent == 0) return (float)mantissa * (1.0f / 1024.0f);
        return __uint_as_float((exponent + 119) << 23 | mantissa << 20);
    }
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const u8* qs = b + 4 + (2 * sub + h) * 8;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                u32 v = word_at<ALIGN>(qs + 4 * i);
                s.q[4 * h + i] = fp4_values(v & 0x0f0f0f0f);
                s.q[4 * h + i + 2] = fp4_values(v >> 4 & 0x0f0f0f0f);
            }
            s.d[h] = scale(b[2 * sub + h]);
        }
    }
};

struct Q1_0 {
    enum { ELEMS = 128, BYTES = 18, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
        u32 bits = word_at<ALIGN>(b + 2 + 4 * sub);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = minus_bytes(bits_to_bytes(bits >> 4 * i) << 1, 1);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

/// Four fields of two bits in a byte, each a byte of its own.
DEVICE u32 pairs_to_bytes(u32 byte) {
    return (byte & 3) | (byte >> 2 & 3) << 8 | (byte >> 4 & 3) << 16 | (byte >> 6 & 3) << 24;
}

struct Q2_0 {
    enum { ELEMS = 64, BYTES = 18, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = minus_bytes(pairs_to_bytes(b[2 + 8 * sub + i]), 1);
        both(s.d, half_bits(half_word_at<ALIGN>(b)));
    }
};

struct TQ2_0 {
    enum { ELEMS = 256, BYTES = 66, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u32 v = word_at<ALIGN>(b + sub / 4 * 32 + 4 * i) >> sub % 4 * 2 & 0x03030303;
            s.q[i] = minus_bytes(v, 1);
        }
        both(s.d, half_bits(half_word_at<ALIGN>(b + 64)));
    }
};

struct TQ1_0 {
    enum { ELEMS = 256, BYTES = 54, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    // Three runs of bytes, of 32, 16 and 4: trit 0 of every byte of a run, then trit 1 of every byte, and so on. Four
    // neighbours are the same trit of four neighbours.
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int w = 0; w < 8; ++w) {
            int at = 4 * w, trit = sub;
            if (sub >= 5) at = 32 + w % 4 * 4, trit = 2 * (sub - 5) + w / 4;
            if (sub == 7 && w >= 4) at = 48, trit = w - 4;
            u32 power = (u32)(0x511b090301ull >> 8 * trit) & 0xff;  // 3 to the power of trit
            u32 bytes = word_at<ALIGN>(b + at), four = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) four |= ((bytes >> 8 * i & 0xff) * power & 0xff) * 3 >> 8 << 8 * i;
            s.q[w] = minus_bytes(four, 1);
        }
        both(s.d, half_bits(half_word_at<ALIGN>(b + 52)));
    }
};

struct Q2_K {
    enum { ELEMS = 256, BYTES = 84, ALIGN = 4, SPLIT = 1, MINIMUM = 1 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            s.q[i] = (int)(word_at<ALIGN>(b + 16 + sub / 4 * 32 + 4 * i) >> sub % 4 * 2 & 0x03030303);
        float d = half_bits(half_word_at<ALIGN>(b + 80)), dmin = half_bits(half_word_at<ALIGN>(b + 82));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            u32 sm = b[2 * sub + h];
            s.d[h] = d * (float)(sm & 15);
            s.m[h] = dmin * (float)(sm >> 4);
        }
    }
};

struct Q3_K {
    enum { ELEMS = 256, BYTES = 110, ALIGN = 2, SPLIT = 1, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u32 low = word_at<ALIGN>(b + 32 + sub / 4 * 32 + 4 * i) >> sub % 4 * 2 & 0x03030303;
            u32 high = word_at<ALIGN>(b + 4 * i) >> sub & 0x01010101;
            s.q[i] = minus_bytes(low | high << 2, 4);
        }
        float d = half_bits(half_word_at<ALIGN>(b + 108));
        const u8* scales = b + 96;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            int i = 2 * sub + h;
            int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4, high = scales[8 + i % 4] >> i / 4 * 2 & 3;
            s.d[h] = d * (float)((low | high << 4) - 32);
        }
    }
};

/// Scale and minimum `i` of the 8 of Q4_K and Q5_K, six bits each.
DEVICE void scale_and_min(const u8* scales, int i, float d, float dmin, Sub& s) {
    u32 scale, min;
    if (i < 4) {
        scale = scales[i] & 63, min = scales[i + 4] & 63;
    } else {
        scale = (scales[i + 4] & 15) | scales[i - 4] >> 6 << 4;
        min = scales[i + 4] >> 4 | scales[i] >> 6 << 4;
    }
    both(s.d, d * (float)scale);
    both(s.m, dmin * (float)min);
}

struct Q4_K {
    enum { ELEMS = 256, BYTES = 144, ALIGN = 4, SPLIT = 0, MINIMUM = 1 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            s.q[i] = (int)(word_at<ALIGN>(b + 16 + sub / 2 * 32 + 4 * i) >> sub % 2 * 4 & 0x0f0f0f0f);
        scale_and_min(b + 4, sub, half_bits(half_word_at<ALIGN>(b)), half_bits(half_word_at<ALIGN>(b + 2)), s);
    }
};

struct Q5_K {
    enum { ELEMS = 256, BYTES = 176, ALIGN = 4, SPLIT = 0, MINIMUM = 1 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u32 low = word_at<ALIGN>(b + 48 + sub / 2 * 32 + 4 * i) >> sub % 2 * 4 & 0x0f0f0f0f;
            u32 high = word_at<ALIGN>(b + 16 + 4 * i) >> sub & 0x01010101;
            s.q[i] = (int)(low | high << 4);
        }
        scale_and_min(b + 4, sub, half_bits(half_word_at<ALIGN>(b)), half_bits(half_word_at<ALIGN>(b + 2)), s);
    }
};

struct Q6_K {
    enum { ELEMS = 256, BYTES = 210, ALIGN = 2, SPLIT = 1, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            u32 low = word_at<ALIGN>(b + sub / 4 * 64 + sub % 2 * 32 + 4 * i) >> sub / 2 % 2 * 4 & 0x0f0f0f0f;
            u32 high = word_at<ALIGN>(b + 128 + sub / 4 * 32 + 4 * i) >> sub % 4 * 2 & 0x03030303;
            s.q[i] = minus_bytes(low | high << 4, 32);
        }
        float d = half_bits(half_word_at<ALIGN>(b + 208));
        s.d[0] = d * (float)(i8)b[192 + 2 * sub];
        s.d[1] = d * (float)(i8)b[193 + 2 * sub];
    }
};

struct IQ4_XS {
    enum { ELEMS = 256, BYTES = 136, ALIGN = 4, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8*, Sub& s) {
        u32 q[8];
        nibbles<ALIGN>(b + 8 + 16 * sub, q);
#pragma unroll
        for (int i = 0; i < 8; ++i) s.q[i] = iq4_values(q[i]);
        int low = b[4 + sub / 2] >> sub % 2 * 4 & 15, high = half_word_at<ALIGN>(b + 2) >> 2 * sub & 3;
        both(s.d, half_bits(half_word_at<ALIGN>(b)) * (float)((low | high << 4) - 32));
    }
};

/// Four magnitudes of a grid, none zero, negative where a bit is set.
DEVICE int with_signs(u32 magnitudes, u32 bits) {
    u32 ones = bits_to_bytes(bits);
    return (int)((magnitudes ^ ones * 255) + ones);
}

/// Eight magnitudes of a grid under the signs of one byte.
DEVICE void signed_eight(const i8* point, u32 signs, int* q) {
    const u32* words = reinterpret_cast<const u32*>(point);
    q[0] = with_signs(words[0], signs);
    q[1] = with_signs(words[1], signs >> 4);
}

/// The signs of eight from seven bits: the eighth makes their number even.
DEVICE u32 even_signs(u32 seven) {
    seven &= 127;
    return seven | (u32)(__popc(seven) & 1) << 7;
}

struct IQ2_XXS {
    enum { ELEMS = 256, BYTES = 66, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
        const u8* qs = b + 2 + 8 * sub;
        u32 word = word_at<ALIGN>(qs + 4);
#pragma unroll
        for (int l = 0; l < 4; ++l) signed_eight(grid + qs[l] * 8, even_signs(word >> 7 * l), s.q + 2 * l);
        both(s.d, half_bits(half_word_at<ALIGN>(b)) * (0.5f + (float)(word >> 28)) * 0.25f);
    }
};

struct IQ2_XS {
    enum { ELEMS = 256, BYTES = 74, ALIGN = 2, SPLIT = 1, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            u32 q = half_word_at<ALIGN>(b + 2 + 8 * sub + 2 * l);
            signed_eight(grid + (q & 511) * 8, even_signs(q >> 9), s.q + 2 * l);
        }
        float d = half_bits(half_word_at<ALIGN>(b));
        u32 scales = b[66 + sub];
        s.d[0] = d * (0.5f + (float)(scales & 15)) * 0.25f;
        s.d[1] = d * (0.5f + (float)(scales >> 4)) * 0.25f;
    }
};

struct IQ2_S {
    enum { ELEMS = 256, BYTES = 82, ALIGN = 2, SPLIT = 1, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            u32 index = b[2 + 4 * sub + l] | (u32)(b[66 + sub] >> 2 * l & 3) << 8;
            signed_eight(grid + index * 8, b[34 + 4 * sub + l], s.q + 2 * l);
        }
        float d = half_bits(half_word_at<ALIGN>(b));
        u32 scales = b[74 + sub];
        s.d[0] = d * (0.5f + (float)(scales & 15)) * 0.25f;
        s.d[1] = d * (0.5f + (float)(scales >> 4)) * 0.25f;
    }
};

/// Four magnitudes of a grid.
DEVICE u32 four_of(const i8* grid, u32 index) { return reinterpret_cast<const u32*>(grid)[index]; }

struct IQ3_XXS {
    enum { ELEMS = 256, BYTES = 98, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
        u32 word = word_at<ALIGN>(b + 66 + 4 * sub);
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            u32 signs = even_signs(word >> 7 * l);
            s.q[2 * l] = with_signs(four_of(grid, b[2 + 8 * sub + 2 * l]), signs);
            s.q[2 * l + 1] = with_signs(four_of(grid, b[3 + 8 * sub + 2 * l]), signs >> 4);
        }
        both(s.d, half_bits(half_word_at<ALIGN>(b)) * (0.5f + (float)(word >> 28)) * 0.5f);
    }
};

struct IQ3_S {
    enum { ELEMS = 256, BYTES = 110, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
        u32 high = b[66 + sub];
#pragma unroll
        for (int w = 0; w < 8; ++w) {
            u32 index = b[2 + 8 * sub + w] | (high >> w & 1) << 8, signs = b[74 + 4 * sub + w / 2] >> w % 2 * 4;
            s.q[w] = with_signs(four_of(grid, index), signs);
        }
        u32 scale = b[106 + sub / 2] >> sub % 2 * 4 & 15;
        both(s.d, half_bits(half_word_at<ALIGN>(b)) * (float)(1 + 2 * scale));
    }
};

/// Eight times (trit + an eighth), or (trit - an eighth): whole numbers. A point is eight fields of two bits, a trit and one.
DEVICE void shifted_eight(const i8* grid, u32 index, int delta, int* q) {
    u32 point = reinterpret_cast<const u16*>(grid)[index];
    q[0] = minus_bytes(pairs_to_bytes(point) << 3, 8 - delta);
    q[1] = minus_bytes(pairs_to_bytes(point >> 8) << 3, 8 - delta);
}

struct IQ1_S {
    enum { ELEMS = 256, BYTES = 50, ALIGN = 2, SPLIT = 0, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
        u32 high = half_word_at<ALIGN>(b + 34 + 2 * sub);
#pragma unroll
        for (int l = 0; l < 4; ++l) {
            u32 index = b[2 + 4 * sub + l] | (high >> 3 * l & 7) << 8;
            shifted_eight(grid, index, high >> 15 ? -1 : 1, s.q + 2 * l);
        }
        both(s.d, half_bits(half_word_at<ALIGN>(b)) * (float)(1 + 2 * (high >> 12 & 7)) * 0.125f);
    }
};

struct IQ1_M {
    enum { ELEMS = 256, BYTES = 56, ALIGN = 4, SPLIT = 1, MINIMUM = 0 };
    static DEVICE void unpack(const u8* b, int sub, const i8* grid, Sub& s) {
        const u8* scales = b + 48;
        float d = half_bits((u16)(scales[1] >> 4 | scales[3] >> 4 << 4 | scales[5] >> 4 << 8 | scales[7] >> 4 << 12));
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            int sixteen = 2 * sub + h;
#pragma unroll
            for (int l = 0; l < 2; ++l) {
                u32 high = b[32 + sixteen] >> 4 * l, index = b[2 * sixteen + l] | (high & 7) << 8;
                shifted_eight(grid, index, high & 8 ? -1 : 1, s.q + 4 * h + 2 * l);
            }
            u32 word = half_word_at<ALIGN>(scales + sixteen / 4 * 2);
            s.d[h] = d * (float)(1 + 2 * (word >> sixteen % 4 * 3 & 7)) * 0.125f;
        }
    }
};

template <> struct Grid<IQ2_XXS> { enum { BYTES = 256 * 8 }; };
template <> struct Grid<IQ2_XS> { enum { BYTES = 512 * 8 }; };
template <> struct Grid<IQ2_S> { enum { BYTES = 1024 * 8 }; };
template <> struct Grid<IQ3_XXS> { enum { BYTES = 256 * 4 }; };
template <> struct Grid<IQ3_S> { enum { BYTES = 512 * 4 }; };
template <> struct Grid<IQ1_S> { enum { BYTES = 2048 * 2 }; };
template <> struct Grid<IQ1_M> { enum { BYTES = 2048 * 2 }; };

// Weights that are plain floats.

struct F32 {
    typedef float T;
    static DEVICE float value(T x) { return x; }
};
struct F16 {
    typedef __half T;
    static DEVICE float value(T x) { return __half2float(x); }
};
struct BF16 {
    typedef u16 T;
    static DEVICE float value(T x) { return __uint_as_float((u32)x << 16); }
};
