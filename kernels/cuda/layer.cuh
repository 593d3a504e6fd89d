// What stands between the products: norms, quantized activations, rotation, gates, the router.
#pragma once
#include "formats.cuh"

// ---- norms ----

struct NormArgs {
    const float* x;       // [rows, stride], of each row the first dim
    const float* weight;  // [period, dim]: row r takes the weights r % period
    float* out;           // [rows, stride]; may be x
    int dim;
    float eps;
    int centred;  // layer norm: the mean is taken off first
    int stride;
    int period;
};
static_assert(sizeof(NormArgs) == 48, "as in args.rs");

/// A block a row. Sums are in f64, as the CPU's are: then activations that lie between two integers round alike.
DEVICE void norm_row(const NormArgs& a) {
    __shared__ double partial[33];
    const float* x = a.x + (u64)blockIdx.x * a.stride;
    const float* weight = a.weight + blockIdx.x % a.period * a.dim;
    float* out = a.out + (u64)blockIdx.x * a.stride;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    float mean = 0.0f;
    for (int pass = a.centred ? 0 : 1; pass < 2; ++pass) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
            float v = __fsub_rn(x[i], mean);
            sum += (double)(pass == 0 ? v : __fmul_rn(v, v));
        }
#pragma unroll
        for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(ALL_LANES, sum, step, WARP);
        __syncthreads();
        if (lane == 0) partial[warp] = sum;
        __syncthreads();
        sum = 0.0;
        for (int i = 0; i < warps; ++i) sum += partial[i];
        float average = (float)(sum / (double)a.dim);
        if (pass == 0) {
            mean = average;
        } else {
            float factor = 1.0f / sqrtf(average + a.eps);
            for (int i = threadIdx.x; i < a.dim; i += blockDim.x)
                out[i] = __fmul_rn(__fmul_rn(__fsub_rn(x[i], mean), factor), weight[i]);
        }
    }
}

// ---- activations as int8 ----

struct QuantizeArgs {
    const float* x;  // [blocks, 32 or 256]
    i8* q;           // the same
    float* d;        // [32s]
    float* s;        // [32s]: scale x sum
    int blocks;
};
static_assert(sizeof(QuantizeArgs) == 40, "as in args.rs");

/// Scale and its inverse of a block whose largest magnitude has these bits. A NaN or an infinity makes the scale NaN.
DEVICE void scale_of(u32 top, float& d, float& inverse) {
    float max = __uint_as_float(top);
    bool finite = top < 0x7f800000u;
    d = finite ? __fdiv_rn(max, 127.0f) : __uint_as_float(0x7fc00000u);
    inverse = finite && max > 0.0f ? fminf(__fdiv_rn(127.0f, max), 3.402823466e38f) : 0.0f;
}

DEVICE u32 warp_max_bits(u32 v) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) v = max(v, __shfl_xor_sync(ALL_LANES, v, step, WARP));
    return v;
}

DEVICE int rounded(float x, float inverse) { return inverse == 0.0f ? 0 : __float2int_rn(__fmul_rn(x, inverse)); }

/// A warp a block of 32.
DEVICE void quantize_32(const QuantizeArgs& a) {
    int lane = threadIdx.x % WARP, block = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (block >= a.blocks) return;
    u64 at = (u64)block * 32 + lane;
    float x = a.x[at], d, inverse;
    scale_of(warp_max_bits(__float_as_uint(x) & 0x7fffffff), d, inverse);
    int q = rounded(x, inverse);
    int sum = warp_sum(q);
    a.q[at] = (i8)q;
    if (lane == 0) {
        a.d[block] = half_precision(d);
        a.s[block] = half_precision(__fmul_rn(d, (float)sum));
    }
}

/// A warp a block of 256; each of its 32s gets the scale of all.
DEVICE void quantize_256(const QuantizeArgs& a) {
    int lane = threadIdx.x % WARP, block = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (block >= a.blocks) return;
    const float4* x = reinterpret_cast<const float4*>(a.x + (u64)block * 256) + 2 * lane;
    float4 halves[2] = {x[0], x[1]};
    float v[8] = {halves[0].x, halves[0].y, halves[0].z, halves[0].w, halves[1].x, halves[1].y, halves[1].z, halves[1].w};
    u32 top = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) top = max(top, __float_as_uint(v[i]) & 0x7fffffff);
    float d, inverse;
    scale_of(warp_max_bits(top), d, inverse);
    int sum = 0;
    u32 words[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        int q = rounded(v[i], inverse);
        sum += q;
        words[i / 4] |= (u32)(q & 0xff) << i % 4 * 8;
    }
    uint2 both_words = {words[0], words[1]};
    *(reinterpret_cast<uint2*>(a.q + (u64)block * 256) + lane) = both_words;
    // Four lanes hold a 32.
    sum += __shfl_xor_sync(ALL_LANES, sum, 1, WARP);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2, WARP);
    if (lane % 4 == 0) {
        a.d[block * 8 + lane / 4] = d;
        a.s[block * 8 + lane / 4] = __fmul_rn(d, (float)sum);
    }
}

// ---- elementwise ----

struct EachArgs {
    float* x;        // [rows, width], changed
    const float* y;  // [rows, width], or [width] for a bias
    int rows;
    int width;
    float scale;
    float cap;
};
static_assert(sizeof(EachArgs) == 32, "as in args.rs");

DEVICE u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

/// x += y.
DEVICE void add_rows(const EachArgs& a) {
    u64 i = thread_index();
    if (i < (u64)a.rows * a.width) a.x[i] += a.y[i];
}

/// Each row += y.
DEVICE void add_bias(const EachArgs& a) {
    u64 i = thread_index();
    if (i < (u64)a.rows * a.width) a.x[i] += a.y[i % a.width];
}

/// x = x * scale, then cap * tanh(x / cap) where there is a cap.
DEVICE void scale_and_cap(const EachArgs& a) {
    u64 i = thread_index();
    if (i >= (u64)a.rows * a.width) return;
    float x = a.x[i] * a.scale;
    a.x[i] = a.cap > 0.0f ? a.cap * tanhf(x / a.cap) : x;
}

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

/// GELU in its tanh form. 1 + tanh(u) is 2 / (1 + e^(-2 u)), which does not cancel.
DEVICE float gelu(float x) {
    float u = 0.79788456080286535588f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * u));
}

/// x = silu(x) * y.
DEVICE void gate_silu(const EachArgs& a) {
    u64 i = thread_index();
    if (i < (u64)a.rows * a.width) a.x[i] = silu(a.x[i]) * a.y[i];
}

/// x = gelu(x) * y.
DEVICE void gate_gelu(const EachArgs& a) {
    u64 i = thread_index();
    if (i < (u64)a.rows * a.width) a.x[i] = gelu(a.x[i]) * a.y[i];
}

struct GateRowsArgs {
    float* x;             // [rows, dim], changed
    const float* h;       // [rows, dim]
    const float* weight;  // [dim]
    int dim;
};
static_assert(sizeof(GateRowsArgs) == 32, "as in args.rs");

/// Multiplies a row by the sigmoid of the product of its `h` with a vector: a block a row.
DEVICE void gate_by_dot(const GateRowsArgs& a) {
    __shared__ float partial[33];
    float* x = a.x + (u64)blockIdx.x * a.dim;
    const float* h = a.h + (u64)blockIdx.x * a.dim;
    float dot = 0.0f;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) dot = fmaf(h[i], a.weight[i], dot);
    float factor = 1.0f / (1.0f + expf(-block_sum(dot, partial)));
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) x[i] *= factor;
}

struct MoveHeadsArgs {
    const float* from;
    float* to;
    int n;
    int heads;
    int width;
    int from_token;  // floats from one token to the next, and from one head to the next
    int from_head;
    int to_token;
    int to_head;
};
static_assert(sizeof(MoveHeadsArgs) == 48, "as in args.rs");

/// Copies `width` floats of each head of each token to another layout.
DEVICE void copy_heads(const MoveHeadsArgs& a) {
    u64 i = thread_index();
    if (i >= (u64)a.n * a.heads * a.width) return;
    u64 row = i / a.width, token = row / a.heads, head = row % a.heads, column = i % a.width;
    a.to[token * a.to_token + head * a.to_head + column] = a.from[token * a.from_token + head * a.from_head + column];
}

struct PickArgs {
    const float* from;  // [n, width]
    const int* rows;    // [count]
    float* to;          // [count, width]
    int count;
    int width;
};
static_assert(sizeof(PickArgs) == 32, "as in args.rs");

/// Row i of the result is row rows[i].
DEVICE void pick_rows(const PickArgs& a) {
    u64 i = thread_index();
    if (i < (u64)a.count * a.width) a.to[i] = a.from[(u64)a.rows[i / a.width] * a.width + i % a.width];
}

// ---- embedding ----

struct EmbedArgs {
    const u8* w;        // [n_vocab, dim]
    const int* tokens;  // [n]
    float* out;         // [n, dim]
    const i8* grid;
    int n;
    int dim;
    float scale;
};
static_assert(sizeof(EmbedArgs) == 48, "as in args.rs");

/// A thread 32 elements.
template <class F>
DEVICE void embed(const EmbedArgs& a) {
    int subs = a.dim / 32;
    u64 i = thread_index();
    if (i >= (u64)a.n * subs) return;
    int token = (int)(i / subs), sub = (int)(i % subs);
    u64 block = (u64)a.tokens[token] * (a.dim / F::ELEMS) + sub / (F::ELEMS / 32);
    Sub s;
    both(s.m, 0.0f);
    F::unpack(a.w + block * F::BYTES, sub % (F::ELEMS / 32), a.grid, s);
    float* out = a.out + (u64)token * a.dim + 32 * sub;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
        float q = (float)(i8)(s.q[j / 4] >> j % 4 * 8);
        out[j] = a.scale * __fsub_rn(__fmul_rn(s.d[j / 16], q), s.m[j / 16]);
    }
}

template <class F>
DEVICE void embed_plain(const EmbedArgs& a) {
    u64 i = thread_index();
    if (i >= (u64)a.n * a.dim) return;
    const typename F::T* row = reinterpret_cast<const typename F::T*>(a.w) + (u64)a.tokens[i / a.dim] * a.dim;
    a.out[i] = a.scale * F::value(row[i % a.dim]);
}

// ---- rotation and the cache ----

struct RopeArgs {
    float* x;          // [n, heads, head_dim]
    const float* cos;  // [n, pairs]
    const float* sin;
    int n;
    int heads;
    int head_dim;
    int pairs;
    int adjacent;  // 2 i and 2 i + 1 turn together; else i and i + pairs
};
static_assert(sizeof(RopeArgs) == 48, "as in args.rs");

DEVICE void turn(float* head, int pair, int pairs, int adjacent, float c, float s) {
    int i = adjacent ? 2 * pair : pair, j = adjacent ? 2 * pair + 1 : pair + pairs;
    float a = head[i], b = head[j];
    head[i] = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
    head[j] = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
}

DEVICE void rope_rows(const RopeArgs& a) {
    u64 i = thread_index();
    if (i >= (u64)a.n * a.heads * a.pairs) return;
    int pair = (int)(i % a.pairs);
    u64 head = i / a.pairs, token = head / a.heads;
    turn(a.x + head * a.head_dim, pair, a.pairs, a.adjacent, a.cos[token * a.pairs + pair], a.sin[token * a.pairs + pair]);
}

/// How keys and values are stored: KvType of kernels/src/float/kv.rs.
#define KV_F32 0
#define KV_F16 1
#define KV_Q8_0 2

DEVICE int kv_row_bytes(int type, int width) {
    return type == KV_F32 ? 4 * width : type == KV_F16 ? 2 * width : (width + 31) / 32 * 34;
}

/// Value `i` of a stored row.
DEVICE float kv_load(int type, const u8* row, int i) {
    if (type == KV_F32) return reinterpret_cast<const float*>(row)[i];
    if (type == KV_F16) return __half2float(reinterpret_cast<const __half*>(row)[i]);
    const u8* block = row + i / 32 * 34;
    return (float)(i8)block[2 + i % 32] * half_bits(*reinterpret_cast<const u16*>(block));
}

/// Stores values of a row, 32 at a time by a warp: lane l holds value 32 b + l, or zero beyond the width.
DEVICE void kv_store(int type, u8* row, int b, int lane, int width, float x) {
    int i = 32 * b + lane;
    if (type == KV_Q8_0) {
        float top = warp_max(fabsf(x)), inverse = top > 0.0f ? __fdiv_rn(127.0f, top) : 0.0f;
        u8* block = row + 34 * b;
        block[2 + lane] = (u8)(i8)__float2int_rn(__fmul_rn(x, inverse));
        if (lane == 0) *reinterpret_cast<__half*>(block) = __float2half_rn(__fdiv_rn(top, 127.0f));
    } else if (i < width) {
        if (type == KV_F32) reinterpret_cast<float*>(row)[i] = x;
        if (type == KV_F16) reinterpret_cast<__half*>(row)[i] = __float2half_rn(x);
    }
}

struct StoreArgs {
    const float* x;  // [n, heads, width]
    u8* cache;       // [heads, capacity, row bytes]
    int type;
    int n;
    int heads;
    int width;
    int capacity;
    int pos;  // of the first token
};
static_assert(sizeof(StoreArgs) == 40, "as in args.rs");

/// A warp a row of a head.
DEVICE void store_rows(const StoreArgs& a) {
    int lane = threadIdx.x % WARP;
    u64 row = (u64)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= (u64)a.n * a.heads) return;
    int token = (int)(row / a.heads), head = (int)(row % a.heads);
    u8* to = a.cache + ((u64)head * a.capacity + a.pos + token) * kv_row_bytes(a.type, a.width);
    for (int b = 0; 32 * b < a.width; ++b) {
        float x = 32 * b + lane < a.width ? a.x[row * a.width + 32 * b + lane] : 0.0f;
        kv_store(a.type, to, b, lane, a.width, x);
    }
}

struct ShiftArgs {
    u8* cache;         // [heads, capacity, row bytes]
    const float* cos;  // [pairs], or null: rows move as they are
    const float* sin;
    int type;
    int width;
    int capacity;
    int start;  // the positions start .. end are forgotten,
    int end;
    int held;  // those from end to held move down
    int pairs;
    int adjacent;
    int skip;  // values at the front of a row that are not turned
};
static_assert(sizeof(ShiftArgs) == 64, "as in args.rs");

#define SHIFT_ROWS 8
#define SHIFT_WIDTH 640

/// A block a head. Eight rows are read before they are written, in the order of the positions, so that none is lost.
DEVICE void shift_rows(const ShiftArgs& a) {
    __shared__ float rows[SHIFT_ROWS][SHIFT_WIDTH];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, bytes = kv_row_bytes(a.type, a.width);
    u8* cache = a.cache + (u64)blockIdx.x * a.capacity * bytes;
    for (int first = a.end; first < a.held; first += SHIFT_ROWS) {
        int pos = first + warp;
        bool mine = pos < a.held;
        const u8* from = cache + (u64)pos * bytes;
        u8* to = cache + (u64)(pos - (a.end - a.start)) * bytes;
        float* row = rows[warp];
        if (a.cos) {
            if (mine) {
                for (int i = lane; i < a.width; i += WARP) row[i] = kv_load(a.type, from, i);
                __syncwarp();
                for (int i = lane; i < a.pairs; i += WARP) turn(row + a.skip, i, a.pairs, a.adjacent, a.cos[i], a.sin[i]);
            }
            __syncthreads();
            if (mine)
                for (int b = 0; 32 * b < a.width; ++b)
                    kv_store(a.type, to, b, lane, a.width, 32 * b + lane < a.width ? row[32 * b + lane] : 0.0f);
        } else {
            u8* copy = reinterpret_cast<u8*>(row);
            if (mine)
                for (int i = lane; i < bytes; i += WARP) copy[i] = from[i];
            __syncthreads();
            if (mine)
                for (int i = lane; i < bytes; i += WARP) to[i] = copy[i];
        }
        __syncthreads();
    }
}

// ---- the router ----

#define MOST_EXPERTS 512

#define MOST_GROUPS 32
#define CHOOSE_WARPS 8

struct RouteArgs {
    const float* logits;  // [n, experts]
    const float* bias;    // [experts], added to what is chosen by; or null
    int* chosen;          // [n, active]
    float* weight;        // [n, active]
    int* offsets;         // [experts + 1]
    int* token;           // [pairs]: the token of each pair, sorted by expert
    int* pair;            // [n, active]: the pair of each choice
    int n;
    int experts;
    int active;
    int sigmoid;  // of each logit, instead of the softmax of all
    int groups;   // only experts of the best groups are chosen; 0: of all
    int groups_active;
    int group_best;  // a group's score is the sum of so many of its best: one or two
    int renormalize;
    float scale;
};
static_assert(sizeof(RouteArgs) == 96, "as in args.rs");

/// The largest of a warp and its index, the lowest of equal ones.
DEVICE void warp_best(float& best, int& index) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) {
        float other = __shfl_xor_sync(ALL_LANES, best, step, WARP);
        int other_index = __shfl_xor_sync(ALL_LANES, index, step, WARP);
        if (other > best || (other == best && other_index < index)) best = other, index = other_index;
    }
}

#define EXPERTS_OF_LANE (MOST_EXPERTS / WARP)

/// The best of the experts `from` to `end`, of which lane l has l, l + 32, ...; MOST_EXPERTS where there is none.
DEVICE int best_expert(const float (&key)[EXPERTS_OF_LANE], int from, int end, float& best) {
    int lane = threadIdx.x % WARP, expert = MOST_EXPERTS;
    best = LOWEST;
#pragma unroll
    for (int j = 0; j < EXPERTS_OF_LANE; ++j) {
        int e = lane + WARP * j;
        if (e >= from && e < end && key[j] > best) best = key[j], expert = e;
    }
    warp_best(best, expert);
    return expert;
}

/// Takes the experts of all but the best groups out of the choice.
DEVICE void leave_best_groups(const RouteArgs& a, float (&key)[EXPERTS_OF_LANE], float* scores) {
    int lane = threadIdx.x % WARP, each = a.experts / a.groups;
    for (int group = 0; group < a.groups; ++group) {
        float best, second = 0.0f;
        int first = best_expert(key, group * each, (group + 1) * each, best);
        if (a.group_best > 1) {
            float before, after;
            best_expert(key, group * each, first, before);
            best_expert(key, first + 1, (group + 1) * each, after);
            second = fmaxf(before, after);
        }
        if (lane == 0) scores[group] = best + second;
    }
    __syncwarp();
    float score = lane < a.groups ? scores[lane] : LOWEST;
    for (int taken = 0; taken < a.groups_active; ++taken) {
        float best = score;
        int group = lane;
        warp_best(best, group);
        if (lane == group) score = LOWEST;
    }
    __syncwarp();
    scores[lane] = score;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < EXPERTS_OF_LANE; ++j) {
        int e = lane + WARP * j;
        // A group that was taken has no score left.
        if (e < a.experts && scores[e / each] > LOWEST) key[j] = LOWEST;
    }
}

/// A warp a token: softmax over the experts or the sigmoid of each, then the best; of equal ones the first.
DEVICE void choose_experts(const RouteArgs& a) {
    __shared__ float group_scores[CHOOSE_WARPS][MOST_GROUPS];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, token = blockIdx.x * CHOOSE_WARPS + warp;
    if (token >= a.n) return;
    float score[EXPERTS_OF_LANE], key[EXPERTS_OF_LANE];
    float top = LOWEST;
#pragma unroll
    for (int j = 0; j < EXPERTS_OF_LANE; ++j) {
        int e = lane + WARP * j;
        score[j] = e < a.experts ? a.logits[(u64)token * a.experts + e] : LOWEST;
        top = fmaxf(top, score[j]);
    }
    top = warp_max(top);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < EXPERTS_OF_LANE; ++j) {
        int e = lane + WARP * j;
        score[j] = a.sigmoid ? 1.0f / (1.0f + expf(-score[j])) : expf(score[j] - top);
        if (e < a.experts) sum += score[j];
    }
    sum = a.sigmoid ? 1.0f : warp_sum(sum);
#pragma unroll
    for (int j = 0; j < EXPERTS_OF_LANE; ++j) {
        int e = lane + WARP * j;
        // The bias is of probabilities.
        float probability = a.bias && !a.sigmoid ? score[j] / sum : score[j];
        key[j] = e < a.experts ? (a.bias ? probability + a.bias[e] : probability) : LOWEST;
    }
    if (a.groups) leave_best_groups(a, key, group_scores[warp]);
    float chosen_sum = 0.0f;
    for (int choice = 0; choice < a.active; ++choice) {
        float best, own = 0.0f;
        int expert = best_expert(key, 0, a.experts, best);
        // Scores that are no numbers win nothing: then the experts come in their order.
        if (expert == MOST_EXPERTS) expert = choice;
#pragma unroll
        for (int j = 0; j < EXPERTS_OF_LANE; ++j)
            if (lane + WARP * j == expert) own = score[j], key[j] = LOWEST;
        float weight = warp_sum(own) / sum;
        chosen_sum += weight;
        if (lane == 0) {
            a.chosen[(u64)token * a.active + choice] = expert;
            a.weight[(u64)token * a.active + choice] = weight;
        }
    }
    __syncwarp();
    // The smallest normal f16, as the CPU: a vanished sum does not divide.
    float factor_of = a.renormalize ? fmaxf(chosen_sum, 6.1035156e-5f) : 1.0f;
    for (int choice = lane; choice < a.active; choice += WARP) {
        float* weight = a.weight + (u64)token * a.active + choice;
        *weight = *weight / factor_of * a.scale;
    }
}

/// One block sorts the choices by expert and keeps the order of the tokens: a thread an expert.
DEVICE void group_by_expert(const RouteArgs& a) {
    __shared__ int counts[MOST_EXPERTS];
    int expert = threadIdx.x, choices = a.n * a.active, count = 0;
    for (int i = 0; i < choices; ++i) count += a.chosen[i] == expert;
    counts[expert] = count;
    __syncthreads();
    int place = 0;
    for (int e = 0; e < expert; ++e) place += counts[e];
    if (expert < a.experts) {
        a.offsets[expert] = place;
        if (expert + 1 == a.experts) a.offsets[a.experts] = place + count;
        for (int i = 0; i < choices && count > 0; ++i)
            if (a.chosen[i] == expert) {
                a.token[place] = i / a.active;
                a.pair[i] = place++;
                --count;
            }
    }
}

struct CombineArgs {
    const float* experts;  // [pairs, dim]
    const float* weight;   // [n, active]
    const int* pair;       // [n, active]
    float* out;            // [n, dim]
    int n;
    int active;
    int dim;
};
static_assert(sizeof(CombineArgs) == 48, "as in args.rs");

/// Sums what the chosen experts gave, under their weights, in the order of the choices.
DEVICE void combine_experts(const CombineArgs& a) {
    u64 i = thread_index();
    if (i >= (u64)a.n * a.dim) return;
    int token = (int)(i / a.dim), column = (int)(i % a.dim);
    float sum = 0.0f;
    for (int choice = token * a.active; choice < (token + 1) * a.active; ++choice)
        sum = fmaf(a.weight[choice], a.experts[(u64)a.pair[choice] * a.dim + column], sum);
    a.out[i] = sum;
}

// ---- the best logits ----

#define TOP_THREADS 1024
#define TOP_VALUES 4096
#define TOP_MOST 64

struct TopArgs {
    const float* values;  // [n]
    const int* ids;       // [n], or null: the index is the id
    float* best;          // [blocks, k]
    int* best_ids;
    int n;
    int k;  // at most TOP_MOST
};
static_assert(sizeof(TopArgs) == 40, "as in args.rs");

/// A block takes TOP_VALUES values and gives the k largest, largest first; of equal ones the lowest id. Called for the
/// logits, then for what the blocks gave. Places without a value get the id -1.
DEVICE void top_values(const TopArgs& a) {
    __shared__ float best_of_warp[WARP];
    __shared__ int place_of_warp[WARP];
    __shared__ int winner;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = blockIdx.x * TOP_VALUES;
    float value[TOP_VALUES / TOP_THREADS];
    int id[TOP_VALUES / TOP_THREADS];
#pragma unroll
    for (int j = 0; j < TOP_VALUES / TOP_THREADS; ++j) {
        int i = first + j * TOP_THREADS + threadIdx.x;
        bool there = i < a.n && (!a.ids || a.ids[i] >= 0);
        id[j] = there ? (a.ids ? a.ids[i] : i) : 0x7fffffff;
        value[j] = there ? a.values[i] : 0.0f;
    }
    for (int rank = 0; rank < a.k; ++rank) {
        float best = 0.0f;
        int best_id = 0x7fffffff;
#pragma unroll
        for (int j = 0; j < TOP_VALUES / TOP_THREADS; ++j) {
            bool better = best_id == 0x7fffffff || value[j] > best || (value[j] == best && id[j] < best_id);
            if (id[j] != 0x7fffffff && better) best = value[j], best_id = id[j];
        }
        for (int level = 0; level < 2; ++level) {
#pragma unroll
            for (int step = 16; step > 0; step >>= 1) {
                float other = __shfl_xor_sync(ALL_LANES, best, step, WARP);
                int other_id = __shfl_xor_sync(ALL_LANES, best_id, step, WARP);
                bool better = best_id == 0x7fffffff || other > best || (other == best && other_id < best_id);
                if (other_id != 0x7fffffff && better) best = other, best_id = other_id;
            }
            if (level == 1) break;
            if (lane == 0) best_of_warp[warp] = best, place_of_warp[warp] = best_id;
            __syncthreads();
            best = best_of_warp[lane];
            best_id = place_of_warp[lane];
        }
        if (threadIdx.x == 0) {
            u64 at = (u64)blockIdx.x * a.k + rank;
            a.best[at] = best;
            a.best_ids[at] = best_id == 0x7fffffff ? -1 : best_id;
            winner = best_id;
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < TOP_VALUES / TOP_THREADS; ++j)
            if (id[j] == winner) id[j] = 0x7fffffff;
    }
}
