// Attention of query tokens of one sequence over its cache, with an online softmax.
//
// The query heads that share a key head are taken together: row r of a key head is head r % group of token r / group. A
// block of 128 threads takes ROWS rows and walks the positions that they see in tiles of 32, whose keys, then values, are unpacked
// to floats in shared memory once for all rows. Prompts have many rows; when there are few (decoding), the positions are cut into
// chunks, and a second kernel joins what the chunks gave.
#pragma once
#include "layer.cuh"

#define ATTEND_THREADS 128
#define ATTEND_TILE 32

struct AttendArgs {
    const float* q;  // [n, heads, head_dim]
    const u8* k;     // [kv_heads, capacity, row bytes]
    const u8* v;
    float* out;      // [n, heads, v_dim]
    float* parts;    // [chunks, n, heads, v_dim + 2], for more chunks than one: weighted sum, maximum, sum of weights
    int k_type;
    int v_type;
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
static_assert(sizeof(AttendArgs) == 96, "as in args.rs");

/// Floats of shared memory: queries, one tile, weights, and the factor of each row.
DEVICE int tile_stride(int width) { return width | 1; }

/// Copies rows of the cache as floats. Rows beyond `end` become zero.
DEVICE void load_tile(int type, const u8* cache, int first, int end, int width, float* tile) {
    int bytes = kv_row_bytes(type, width), stride = tile_stride(width);
    for (int i = threadIdx.x; i < ATTEND_TILE * width; i += ATTEND_THREADS) {
        int row = i / width, column = i % width, pos = first + row;
        tile[row * stride + column] = pos < end ? kv_load(type, cache + (u64)pos * bytes, column) : 0.0f;
    }
}

/// DIMS: values of a row that a thread sums, at most 128 * DIMS in all.
template <int ROWS, int DIMS>
DEVICE void attend(const AttendArgs& a) {
    const int WARPS = ATTEND_THREADS / WARP, OWN = ROWS / WARPS;
    SHARED_BY_LAUNCH(float, shared);
    float* qs = shared;                                                                          // [ROWS][head_dim]
    float* tile = qs + ROWS * a.head_dim;                                                        // [32][stride]
    float* weights = tile + ATTEND_TILE * tile_stride(a.head_dim > a.v_dim ? a.head_dim : a.v_dim);  // [ROWS][32]
    float* factors = weights + ROWS * ATTEND_TILE;                                               // [ROWS]

    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int group = a.heads / a.kv_heads, rows = a.n * group, row0 = blockIdx.x * ROWS, kv_head = blockIdx.y;
    const u8* keys = a.k + (u64)kv_head * a.capacity * kv_row_bytes(a.k_type, a.head_dim);
    const u8* values = a.v + (u64)kv_head * a.capacity * kv_row_bytes(a.v_type, a.v_dim);

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
        __syncthreads();
        load_tile(a.k_type, keys, first, to, a.head_dim, tile);
        __syncthreads();
        const float* key = tile + lane * tile_stride(a.head_dim);
        int pos = first + lane;
#pragma unroll
        for (int i = 0; i < OWN; ++i) {
            int r = warp + WARPS * i, row = row0 + r, own_pos = a.first_pos + row / group;
            float score = 0.0f;
            for (int d = 0; d < a.head_dim; ++d) score = fmaf(qs[r * a.head_dim + d], key[d], score);
            score *= a.scale;
            if (a.cap > 0.0f) score = a.cap * tanhf(score / a.cap);
            bool seen = row < rows && pos < to && pos <= own_pos && pos > own_pos - a.window;
            float top = fmaxf(most[i], warp_max(seen ? score : LOWEST));
            float weight = seen ? expf(score - top) : 0.0f, factor = expf(most[i] - top);
            total[i] = total[i] * factor + warp_sum(weight);
            most[i] = top;
            weights[r * ATTEND_TILE + lane] = weight;
            if (lane == 0) factors[r] = factor;
        }
        __syncthreads();
        load_tile(a.v_type, values, first, to, a.v_dim, tile);
        __syncthreads();
#pragma unroll
        for (int d = 0; d < DIMS; ++d) {
            int column = threadIdx.x + ATTEND_THREADS * d;
            if (column < a.v_dim) {
#pragma unroll
                for (int r = 0; r < ROWS; ++r) acc[r][d] *= factors[r];
                for (int j = 0; j < ATTEND_TILE; ++j) {
                    float v = tile[j * tile_stride(a.v_dim) + column];
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
