// Attention of query tokens of one sequence over its cache, with an online softmax.
//
// The query heads that share a key head are taken together: row r of a key head is head r % group of token r / group. A
// block of 128 threads takes ROWS rows and walks the positions that they see in tiles of 32, whose keys, then values, are unpacked
// to floats in shared memory once for all rows, 128 of each at a time. Prompts have many rows; when there are few (decoding), the positions are cut into
// chunks, and a second kernel joins what the chunks gave.
#pragma once
#include "layer.cuh"

#define ATTEND_THREADS 128
#define ATTEND_TILE 32
/// Values of a key or value that are unpacked at a time, one a thread; a row of them has one float more.
#define SLICE ATTEND_THREADS
#define SLICE_STRIDE (SLICE + 1)

struct AttendArgs {
    const float* q;  // [n, heads, head_dim]
    const u8* k;     // [kv_heads, capacity, row bytes]
    const u8* v;     // may be the keys: values are then their front
    float* out;      // [n, heads, v_dim]
    float* parts;    // [chunks, n, heads, v_dim + 2], for more chunks than one: weighted sum, maximum, sum of weights
    int k_type;
    int v_type;
    int k_row;  // bytes
    int v_row;
    int n;
    int first_pos;
    int heads;
    int kv_heads;
    int head_dim;
    int v_dim;
    int capacity;
    int window;  // a token at p sees the positions after p - window
    int chunk;   // positions
    int chunks;
    float scale;
    float cap;  // scores become cap * tanh(score / cap); 0: they do not
};
static_assert(sizeof(AttendArgs) == 104, "as in args.rs");

/// Copies `here` values from column `column` on of 32 rows of the cache as floats. Rows beyond `end` become zero.
DEVICE void load_tile(int type, const u8* cache, int bytes, int first, int end, int column, int here, float* tile) {
    for (int i = threadIdx.x; i < ATTEND_TILE * here; i += ATTEND_THREADS) {
        int row = i / here, at = i % here, pos = first + row;
        tile[row * SLICE_STRIDE + at] = pos < end ? kv_load(type, cache + (u64)pos * bytes, column + at) : 0.0f;
    }
}

/// DIMS: slices of a value at most, of which a thread sums one value each.
template <int ROWS, int DIMS>
DEVICE void attend(const AttendArgs& a) {
    const int WARPS = ATTEND_THREADS / WARP, OWN = ROWS / WARPS;
    SHARED_BY_LAUNCH(float, shared);
    float* qs = shared;                                   // [ROWS][head_dim]
    float* tile = qs + ROWS * a.head_dim;                 // [32][SLICE_STRIDE]
    float* weights = tile + ATTEND_TILE * SLICE_STRIDE;   // [ROWS][32]
    float* factors = weights + ROWS * ATTEND_TILE;        // [ROWS]

    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = a.heads / a.kv_heads, rows = a.n * group, row0 = blockIdx.x * ROWS, kv_head = blockIdx.y;
    const u8* keys = a.k + (u64)kv_head * a.capacity * a.k_row;
    const u8* values = a.v + (u64)kv_head * a.capacity * a.v_row;

    for (int i = threadIdx.x; i < ROWS * a.head_dim; i += ATTEND_THREADS) {
        int row = row0 + i / a.head_dim, column = i % a.head_dim;
        u64 head = (u64)(row / group) * a.heads + kv_head * group + row % group;
        qs[i] = row < rows ? a.q[head * a.head_dim + column] : 0.0f;
    }

    // What the rows of this block see, and of that what lies in this chunk.
    int last = min(row0 + ROWS, rows) - 1;
    int seen_from = max(0, a.first_pos + row0 / group + 1 - a.window), seen_to = a.first_pos + last / group + 1;
    int from = max((int)blockIdx.z * a.chunk, seen_from), to = min((int)(blockIdx.z + 1) * a.chunk, seen_to);
    from -= from % ATTEND_TILE;

    float most[OWN], total[OWN], acc[ROWS][DIMS];
#pragma unroll
    for (int i = 0; i < OWN; ++i) most[i] = LOWEST, total[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int d = 0; d < DIMS; ++d) acc[r][d] = 0.0f;

    for (int first = from; first < to; first += ATTEND_TILE) {
        float scores[OWN];
#pragma unroll
        for (int i = 0; i < OWN; ++i) scores[i] = 0.0f;
        for (int d0 = 0; d0 < a.head_dim; d0 += SLICE) {
            int here = min(SLICE, a.head_dim - d0);
            __syncthreads();
            load_tile(a.k_type, keys, a.k_row, first, to, d0, here, tile);
            __syncthreads();
            const float* key = tile + lane * SLICE_STRIDE;
#pragma unroll
            for (int i = 0; i < OWN; ++i) {
                const float* query = qs + (warp + WARPS * i) * a.head_dim + d0;
                for (int d = 0; d < here; ++d) scores[i] = fmaf(query[d], key[d], scores[i]);
            }
        }
        int pos = first + lane;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            int r = warp + WARPS * i, row = row0 + r, own_pos = a.first_pos + row / group;
            float score = scores[i] * a.scale;
            if (a.cap > 0.0f) score = a.cap * tanhf(score / a.cap);
            bool seen = row < rows && pos < to && pos <= own_pos && pos > own_pos - a.window;
            float top = fmaxf(most[i], warp_max(seen ? score : LOWEST));
            float weight = seen ? expf(score - top) : 0.0f, factor = expf(most[i] - top);
            total[i] = total[i] * factor + warp_sum(weight);
            most[i] = top;
            weights[r * ATTEND_TILE + lane] = weight;
            if (lane == 0) factors[r] = factor;
        }
#pragma unroll
        for (int d = 0; d < DIMS; ++d) {
            int here = min(SLICE, a.v_dim - SLICE * d);
            if (here <= 0) break;
            __syncthreads();
            load_tile(a.v_type, values, a.v_row, first, to, SLICE * d, here, tile);
            __syncthreads();
            if (threadIdx.x < here) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) acc[r][d] *= factors[r];
                for (int j = 0; j < ATTEND_TILE; ++j) {
                    float v = tile[j * SLICE_STRIDE + threadIdx.x];
#pragma unroll
                    for (int r = 0; r < ROWS; ++r) acc[r][d] = fmaf(weights[r * ATTEND_TILE + j], v, acc[r][d]);
                }
            }
        }
    }

    // Each warp knows the sums of its own rows; all need them.
    __syncthreads();
    float* mosts = weights;
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            mosts[warp + WARPS * i] = most[i];
            factors[warp + WARPS * i] = total[i];
        }
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
        int row = row0 + r;
        if (row < rows) {
            u64 head = (u64)(row / group) * a.heads + kv_head * group + row % group;
            float* part = a.parts + ((u64)blockIdx.z * a.n * a.heads + head) * (a.v_dim + 2);
#pragma unroll
            for (int d = 0; d < DIMS; ++d) {
                int column = threadIdx.x + ATTEND_THREADS * d;
                if (column < a.v_dim) {
                    if (a.chunks == 1)
                        a.out[head * a.v_dim + column] = acc[r][d] / factors[r];
                    else
                        part[column] = acc[r][d];
                }
            }
            if (a.chunks > 1 && threadIdx.x == 0) {
                part[a.v_dim] = mosts[r];
                part[a.v_dim + 1] = factors[r];
            }
        }
    }
}

/// Joins the chunks of a token's head, in their order: a block a head.
DEVICE void join_chunks(const AttendArgs& a) {
    u64 head = blockIdx.x, heads = (u64)a.n * a.heads;
    int width = a.v_dim + 2;
    float top = LOWEST, total = 0.0f;
    for (int c = 0; c < a.chunks; ++c) top = fmaxf(top, a.parts[(c * heads + head) * width + a.v_dim]);
    for (int c = 0; c < a.chunks; ++c) {
        const float* part = a.parts + (c * heads + head) * width;
        total += part[a.v_dim + 1] * expf(part[a.v_dim] - top);
    }
    for (int i = threadIdx.x; i < a.v_dim; i += blockDim.x) {
        float sum = 0.0f;
        for (int c = 0; c < a.chunks; ++c) {
            const float* part = a.parts + (c * heads + head) * width;
            sum = fmaf(part[i], expf(part[a.v_dim] - top), sum);
        }
        a.out[head * a.v_dim + i] = sum / total;
    }
}
