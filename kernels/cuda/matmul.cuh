// Products of matrices in blocks with quantized activations, and of plain floats with floats.
//
// out[c][row] = sum over k of w[row][k] * x[c][k]
//
// Activations are int8 in blocks of 32 with a scale and a scaled sum each; `Acts` says how they lie. Columns are all of
// them, or, for experts, those of group `blockIdx.z`: the pairs offsets[g] .. offsets[g + 1], of which pair p reads
// activation pick[p] and writes row p of the result.
#pragma once
#include "formats.cuh"

/// Quantized activations, [n, k].
struct Acts {
    const i8* q;     // [n, k]
    const float* d;  // [n, k / 32]
    const float* s;  // [n, k / 32]: scale x sum
};

struct Product {
    const u8* w;  // [groups, rows, k] in blocks
    Acts acts;
    const float* x;      // [n, k], for weights of plain floats
    float* out;          // [columns, rows]
    const int* offsets;  // [groups + 1], or null: all columns
    const int* pick;     // [columns], or null: column c reads activation c
    const i8* grid;
    u64 matrix_bytes;  // from one group's matrix to the next
    int rows;
    int k;
    int n;       // columns when there are no groups
    int groups;  // grid.z
};
static_assert(sizeof(Product) == 96, "as in args.rs");

/// The columns of this block's group.
struct Columns {
    int first, end;
};

DEVICE Columns columns_of(const Product& p) {
    if (!p.offsets) return {0, p.n};
    return {p.offsets[blockIdx.z], p.offsets[blockIdx.z + 1]};
}

DEVICE int activation_of(const Product& p, int column) { return p.pick ? p.pick[column] : column; }

// ---- few columns: streamed ----
//
// A warp takes some rows. For each chunk of a row it copies the bytes, whatever their alignment, to shared memory in whole
// 16-byte pieces, so that every byte of the weights crosses the bus of the card once; then each lane unpacks 32 weights at a
// time. The activations of a chunk are copied once for the whole block of threads, and so is a format's grid.
//
// With few bits a weight and one column, chunks are longer and rows more: what the ends of chunks, the activations and the
// grid add stays small beside the weights. 4,096 weights are whole sectors in all formats.

#define MATVEC_WARPS 8
#define CHUNK 1024

/// Weights of a chunk, and rows of a warp: with one column as many as have 21 bits a weight together, four to twelve. So says
/// `rows_of_warp` in kernels/src/cuda/product.rs too.
template <class F, int N>
struct Stream {
    enum {
        WEIGHTS = N == 1 && 2 * 8 * F::BYTES < 7 * F::ELEMS ? 4 * CHUNK : CHUNK,
        FIT = 21 * F::ELEMS / (8 * F::BYTES),
        ROWS = N > 1 ? 2 : FIT < 4 ? 4 : FIT > 12 ? 12 : FIT,
    };
};
/// Words of a lane's 32 activations, and one so that lanes fall on different banks.
#define LANE_WORDS 9

/// Copies the bytes of a chunk, from the start of a sector on, and gives where the chunk starts in the copy.
DEVICE int stage(const u8* from, int bytes, uint4* to, int lane) {
    int skip = (int)((u64)from & 31);
    const uint4* pieces = reinterpret_cast<const uint4*>(from - skip);
    int count = (skip + bytes + 15) / 16;
    for (int i = lane; i < count; i += WARP) to[i] = LOAD_CONST(pieces + i);
    return skip;
}

/// Sums what the lanes have of each row and column, and writes it, a row a lane.
template <int ROWS, int N>
DEVICE void write_sums(const Product& p, const float (&acc)[ROWS][N], int first_row, int c0, int columns) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int c = 0; c < N; ++c) {
        float mine = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
            float sum = warp_sum(acc[r][c]);
            if (lane == r) mine = sum;
        }
        if (lane < ROWS && c < columns && first_row + lane < p.rows) p.out[(u64)(c0 + c) * p.rows + first_row + lane] = mine;
    }
}

/// Adds the product of 32 weights and 32 activations.
template <class F>
DEVICE void add_product(float& acc, const Sub& s, const int* x, float d, float scaled_sum) {
    int low = 0, high = 0, low_sum = 0, high_sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        low = dp4a(s.q[i], x[i], low);
        high = dp4a(s.q[i + 4], x[i + 4], high);
        if (F::MINIMUM && F::SPLIT) {
            low_sum = dp4a(0x01010101, x[i], low_sum);
            high_sum = dp4a(0x01010101, x[i + 4], high_sum);
        }
    }
    if (F::SPLIT) {
        float sum = s.d[0] * (float)low + s.d[1] * (float)high;
        if (F::MINIMUM) sum -= s.m[0] * (float)low_sum + s.m[1] * (float)high_sum;
        acc += d * sum;
    } else {
        acc += d * (s.d[0] * (float)(low + high));
        if (F::MINIMUM) acc -= s.m[0] * scaled_sum;
    }
}

template <class F, int N>
DEVICE void matvec(const Product& p) {
    const int PER_BLOCK = F::ELEMS / 32, ROWS = Stream<F, N>::ROWS, SUBS = Stream<F, N>::WEIGHTS / 32;
    const int CHUNK_BYTES = Stream<F, N>::WEIGHTS / F::ELEMS * F::BYTES;
    __shared__ uint4 staged[MATVEC_WARPS][CHUNK_BYTES / 16 + 3];
    __shared__ int xq[N][SUBS * LANE_WORDS];
    __shared__ float xd[N][SUBS], xs[N][SUBS];
    __shared__ uint4 grid[Grid<F>::BYTES / 16 + 1];

    for (int i = threadIdx.x; i < Grid<F>::BYTES / 16; i += blockDim.x)
        grid[i] = LOAD_CONST(reinterpret_cast<const uint4*>(p.grid) + i);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int first_row = (blockIdx.x * MATVEC_WARPS + warp) * ROWS;
    int blocks32 = p.k / 32;
    u64 row_bytes = (u64)(p.k / F::ELEMS) * F::BYTES;
    const u8* w = p.w + p.matrix_bytes * blockIdx.z;
    Columns all = columns_of(p);

    for (int c0 = all.first; c0 < all.end; c0 += N) {
        int columns = min(N, all.end - c0);
        float acc[ROWS][N];
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < N; ++c) acc[r][c] = 0.0f;

        for (int b0 = 0; b0 < blocks32; b0 += SUBS) {
            int here = min(SUBS, blocks32 - b0);
            __syncthreads();
#pragma unroll
            for (int c = 0; c < N; ++c) {
                if (c < columns) {
                    u64 at = (u64)activation_of(p, c0 + c) * p.k + 32 * b0;
                    const int* q = reinterpret_cast<const int*>(p.acts.q + at);
                    for (int word = threadIdx.x; word < 8 * here; word += blockDim.x)
                        xq[c][word / 8 * LANE_WORDS + word % 8] = LOAD_CONST(q + word);
                    if (threadIdx.x < here) {
                        xd[c][threadIdx.x] = LOAD_CONST(p.acts.d + at / 32 + threadIdx.x);
                        if (F::MINIMUM && !F::SPLIT) xs[c][threadIdx.x] = LOAD_CONST(p.acts.s + at / 32 + threadIdx.x);
                    }
                }
            }
            __syncthreads();
            int bytes = here / PER_BLOCK * F::BYTES;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                int row = first_row + r;
                if (row < p.rows) {
                    const u8* from = w + row_bytes * row + (u64)(b0 / PER_BLOCK) * F::BYTES;
                    int skip = stage(from, bytes, staged[warp], lane);
                    __syncwarp();
                    const u8* chunk = reinterpret_cast<const u8*>(staged[warp]) + skip;
#pragma unroll 1
                    for (int i = lane; i < here; i += WARP) {
                        Sub s;
                        F::unpack(chunk + i / PER_BLOCK * F::BYTES, i % PER_BLOCK, reinterpret_cast<const i8*>(grid), s);
#pragma unroll
                        for (int c = 0; c < N; ++c) {
                            if (c < columns) add_product<F>(acc[r][c], s, xq[c] + i * LANE_WORDS, xd[c][i], xs[c][i]);
                        }
                    }
                    __syncwarp();
                }
            }
        }
        write_sums<ROWS, N>(p, acc, first_row, c0, columns);
    }
}

// ---- plain floats ----

/// A warp takes some rows (as above), a lane every 32nd element.
template <class F, int N>
DEVICE void matvec_plain(const Product& p) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int ROWS = N == 1 ? 4 : 2;
    int first_row = (blockIdx.x * MATVEC_WARPS + warp) * ROWS;
    const typename F::T* w =
        reinterpret_cast<const typename F::T*>(p.w + p.matrix_bytes * blockIdx.z) + (u64)first_row * p.k;
    __shared__ float x[N][CHUNK];
    Columns all = columns_of(p);
    for (int c0 = all.first; c0 < all.end; c0 += N) {
        int columns = min(N, all.end - c0);
        float acc[ROWS][N];
#pragma unroll
        for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int c = 0; c < N; ++c) acc[r][c] = 0.0f;
        for (int k0 = 0; k0 < p.k; k0 += CHUNK) {
            int here = min(CHUNK, p.k - k0);
            __syncthreads();
            for (int c = 0; c < columns; ++c) {
                const float* from = p.x + (u64)activation_of(p, c0 + c) * p.k + k0;
                for (int i = threadIdx.x; i < here; i += blockDim.x) x[c][i] = LOAD_CONST(from + i);
            }
            __syncthreads();
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                if (first_row + r < p.rows) {
                    const typename F::T* row = w + (u64)r * p.k + k0;
                    for (int i = lane; i < here; i += WARP) {
                        float v = F::value(LOAD_CONST(row + i));
#pragma unroll
                        for (int c = 0; c < N; ++c)
                            if (c < columns) acc[r][c] = fmaf(v, x[c][i], acc[r][c]);
                    }
                }
            }
        }
        write_sums<ROWS, N>(p, acc, first_row, c0, columns);
    }
}

// ---- many columns: tiles ----
//
// A block of 256 threads computes TILE rows times TILE columns. Each step takes 128 weights of every row: a thread
// unpacks 32 of one row, and copies 32 activations of one column. On compute capability 8.0 and later a warp computes 16
// rows times 32 columns by tensor cores, before that each thread computes four rows times four columns by dp4a.

#define TILE 64
#define STEP 128
#define STEP_SUBS (STEP / 32)
/// Words of a row of STEP bytes, and four so that the rows of a tensor-core fragment fall on different banks.
#define STEP_WORDS (STEP / 4 + 4)

struct Tiles {
    int w[TILE][STEP_WORDS];
    int x[TILE][STEP_WORDS];
    float wd[STEP_SUBS * 2][TILE];
    float wm[STEP_SUBS * 2][TILE];
    float xd[STEP_SUBS][TILE];
    float xs[STEP_SUBS * 2][TILE];
};

DEVICE void mma_s8_32(int (&c)[4], const int (&a)[4], const int (&b)[2]) {
#if !defined(OSTRO_HOST) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

DEVICE void mma_s8_16(int (&c)[4], int a0, int a1, int b) {
#if !defined(OSTRO_HOST) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
#endif
}

/// Adds a product of integers under its scales: rows of `half` (of 16 weights) or of both.
template <class F>
DEVICE void scaled(float& acc, const Tiles& t, int sub, int half, int row, int column, int product) {
    acc = fmaf(t.wd[2 * sub + half][row] * t.xd[sub][column], (float)product, acc);
    if (F::MINIMUM) acc = fmaf(-t.wm[2 * sub + half][row], t.xs[2 * sub + half][column], acc);
}

template <class F>
DEVICE void fill_tiles(const Product& p, Tiles& t, const u8* w, int row0, Columns columns, int b0) {
    const int PER_BLOCK = F::ELEMS / 32;
    int line = threadIdx.x / STEP_SUBS, sub = threadIdx.x % STEP_SUBS, block32 = b0 + sub;
    bool inside = block32 < p.k / 32;
    Sub s;
#pragma unroll
    for (int i = 0; i < 8; ++i) s.q[i] = 0;
    both(s.d, 0.0f);
    both(s.m, 0.0f);
    if (inside && row0 + line < p.rows) {
        u64 block = (u64)(row0 + line) * (p.k / F::ELEMS) + block32 / PER_BLOCK;
        F::unpack(w + block * F::BYTES, block32 % PER_BLOCK, p.grid, s);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) t.w[line][sub * 8 + i] = s.q[i];
    t.wd[2 * sub][line] = s.d[0];
    if (F::SPLIT) t.wd[2 * sub + 1][line] = s.d[1];
    if (F::MINIMUM) {
        t.wm[2 * sub][line] = s.m[0];
        if (F::SPLIT) t.wm[2 * sub + 1][line] = s.m[1];
    }

    int column = columns.first + line;
    bool there = inside && column < columns.end;
    u64 at = there ? (u64)activation_of(p, column) * p.k + 32 * block32 : 0;
    const int4* q = reinterpret_cast<const int4*>(p.acts.q + at);
    int4 zero = {0, 0, 0, 0};
    int4 low = there ? LOAD_CONST(q) : zero, high = there ? LOAD_CONST(q + 1) : zero;
    int4* to = reinterpret_cast<int4*>(&t.x[line][sub * 8]);
    to[0] = low;
    to[1] = high;
    float d = there ? LOAD_CONST(p.acts.d + at / 32) : 0.0f;
    t.xd[sub][line] = d;
    if (F::MINIMUM) {
        if (F::SPLIT) {
            const int ones = 0x01010101;
            int low_sum = dp4a(ones, low.x, dp4a(ones, low.y, dp4a(ones, low.z, dp4a(ones, low.w, 0))));
            int high_sum = dp4a(ones, high.x, dp4a(ones, high.y, dp4a(ones, high.z, dp4a(ones, high.w, 0))));
            t.xs[2 * sub][line] = d * (float)low_sum;
            t.xs[2 * sub + 1][line] = d * (float)high_sum;
        } else {
            t.xs[2 * sub][line] = there ? LOAD_CONST(p.acts.s + at / 32) : 0.0f;
        }
    }
}

/// Writes four rows times four columns, each 16 apart.
DEVICE void write_spread(const Product& p, const float (&acc)[16], int row, int column, int end) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        int r = row + 16 * (i % 4), c = column + 16 * (i / 4);
        if (r < p.rows && c < end) p.out[(u64)c * p.rows + r] = acc[i];
    }
}

template <class F>
DEVICE void matmul(const Product& p) {
    __shared__ Tiles t;
    Columns all = columns_of(p);
    Columns mine = {all.first + (int)blockIdx.y * TILE, all.end};
    if (mine.first >= mine.end) return;
    int row0 = blockIdx.x * TILE;
    const u8* w = p.w + p.matrix_bytes * blockIdx.z;
    float acc[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) acc[i] = 0.0f;
#if !defined(OSTRO_HOST) && __CUDA_ARCH__ >= 800
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, q = lane % 4;
    int r0 = warp % 4 * 16 + g, c0 = warp / 4 * 32;
    for (int b0 = 0; b0 < p.k / 32; b0 += STEP_SUBS) {
        __syncthreads();
        fill_tiles<F>(p, t, w, row0, mine, b0);
        __syncthreads();
#pragma unroll
        for (int sub = 0; sub < STEP_SUBS; ++sub) {
            int a[4] = {t.w[r0][sub * 8 + q], t.w[r0 + 8][sub * 8 + q], t.w[r0][sub * 8 + q + 4], t.w[r0 + 8][sub * 8 + q + 4]};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int b[2] = {t.x[c0 + 8 * j + g][sub * 8 + q], t.x[c0 + 8 * j + g][sub * 8 + q + 4]};
                int column = c0 + 8 * j + 2 * q;
                if (F::SPLIT) {
                    int low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
                    mma_s8_16(low, a[0], a[1], b[0]);
                    mma_s8_16(high, a[2], a[3], b[1]);
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        scaled<F>(acc[4 * j + i], t, sub, 0, r0 + i / 2 * 8, column + i % 2, low[i]);
                        scaled<F>(acc[4 * j + i], t, sub, 1, r0 + i / 2 * 8, column + i % 2, high[i]);
                    }
                } else {
                    int c[4] = {0, 0, 0, 0};
                    mma_s8_32(c, a, b);
#pragma unroll
                    for (int i = 0; i < 4; ++i) scaled<F>(acc[4 * j + i], t, sub, 0, r0 + i / 2 * 8, column + i % 2, c[i]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        int row = row0 + r0 + i % 4 / 2 * 8, column = mine.first + c0 + i / 4 * 8 + 2 * q + i % 2;
        if (row < p.rows && column < mine.end) p.out[(u64)column * p.rows + row] = acc[i];
    }
#else
    // Rows tx, tx + 16, ..., so that neighbours write neighbours, and columns ty, ty + 16, ...
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    for (int b0 = 0; b0 < p.k / 32; b0 += STEP_SUBS) {
        __syncthreads();
        fill_tiles<F>(p, t, w, row0, mine, b0);
        __syncthreads();
        for (int sub = 0; sub < STEP_SUBS; ++sub) {
#pragma unroll
            for (int half = 0; half < 1 + F::SPLIT; ++half) {
                const int WORDS = F::SPLIT ? 4 : 8;
                int c[16];
#pragma unroll
                for (int i = 0; i < 16; ++i) c[i] = 0;
#pragma unroll
                for (int word = 0; word < WORDS; ++word) {
                    int at = sub * 8 + half * 4 + word, a[4], b[4];
#pragma unroll
                    for (int i = 0; i < 4; ++i) a[i] = t.w[tx + 16 * i][at], b[i] = t.x[ty + 16 * i][at];
#pragma unroll
                    for (int i = 0; i < 16; ++i) c[i] = dp4a(a[i % 4], b[i / 4], c[i]);
                }
#pragma unroll
                for (int i = 0; i < 16; ++i) scaled<F>(acc[i], t, sub, half, tx + 16 * (i % 4), ty + 16 * (i / 4), c[i]);
            }
        }
    }
    write_spread(p, acc, row0 + tx, mine.first + ty, mine.end);
#endif
}

// Plain floats in tiles. F16 and BF16 go through tensor cores on 8.0 and later: an activation is the sum of two numbers of the
// weights' type, which keeps 16 bits of it or more, and each gets a product of its own.

#define PLAIN_STEP 32

/// Two numbers of 16 bits in a word whose sum is `x` as nearly as may be.
struct Parts16 {
    u16 high, low;
};

DEVICE Parts16 parts_f16(float x) {
    __half high = __float2half_rn(x);
    return {__half_as_ushort(high), __half_as_ushort(__float2half_rn(x - __half2float(high)))};
}

DEVICE u16 bf16_of(float x) {
    u32 bits = __float_as_uint(x);
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE Parts16 parts_bf16(float x) {
    u16 high = bf16_of(x);
    return {high, bf16_of(x - __uint_as_float((u32)high << 16))};
}

template <bool B>
DEVICE void mma_16(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if !defined(OSTRO_HOST) && __CUDA_ARCH__ >= 800
    if (B)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// Halves of a row of PLAIN_STEP, and eight so that rows fall on different banks.
#define PLAIN_HALVES (PLAIN_STEP + 8)

/// For weights of 16 bits, on tensor cores.
template <bool B>
DEVICE void matmul_plain16(const Product& p) {
    __shared__ __align__(16) u16 ws[TILE][PLAIN_HALVES], high[TILE][PLAIN_HALVES], low[TILE][PLAIN_HALVES];
    Columns all = columns_of(p);
    Columns mine = {all.first + (int)blockIdx.y * TILE, all.end};
    if (mine.first >= mine.end) return;
    int row0 = blockIdx.x * TILE;
    const u16* w = reinterpret_cast<const u16*>(p.w + p.matrix_bytes * blockIdx.z);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, q = lane % 4;
    int r0 = warp % 4 * 16 + g, c0 = warp / 4 * 32;
    float acc[4][4];
#pragma unroll
    for (int i = 0; i < 16; ++i) acc[i / 4][i % 4] = 0.0f;
    for (int k0 = 0; k0 < p.k; k0 += PLAIN_STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * PLAIN_STEP; i += blockDim.x) {
            int line = i / PLAIN_STEP, k = i % PLAIN_STEP, column = mine.first + line;
            bool inside = k0 + k < p.k;
            ws[line][k] = inside && row0 + line < p.rows ? LOAD_CONST(w + (u64)(row0 + line) * p.k + k0 + k) : 0;
            float x = 0.0f;
            if (inside && column < mine.end) x = LOAD_CONST(p.x + (u64)activation_of(p, column) * p.k + k0 + k);
            Parts16 parts = B ? parts_bf16(x) : parts_f16(x);
            high[line][k] = parts.high;
            low[line][k] = parts.low;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < PLAIN_STEP; k += 16) {
            u32 a[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const u32*>(&ws[r0 + i % 2 * 8][k + i / 2 * 8 + 2 * q]);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                u32 b[2], rest[2];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    b[i] = *reinterpret_cast<const u32*>(&high[c0 + 8 * j + g][k + i * 8 + 2 * q]);
                    rest[i] = *reinterpret_cast<const u32*>(&low[c0 + 8 * j + g][k + i * 8 + 2 * q]);
                }
                mma_16<B>(acc[j], a, rest);
                mma_16<B>(acc[j], a, b);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        int row = row0 + r0 + i % 4 / 2 * 8, column = mine.first + c0 + i / 4 * 8 + 2 * q + i % 2;
        if (row < p.rows && column < mine.end) p.out[(u64)column * p.rows + row] = acc[i / 4][i % 4];
    }
}

template <class F>
DEVICE void matmul_plain(const Product& p) {
    __shared__ float ws[TILE][PLAIN_STEP + 1], xs[TILE][PLAIN_STEP + 1];
    Columns all = columns_of(p);
    Columns mine = {all.first + (int)blockIdx.y * TILE, all.end};
    if (mine.first >= mine.end) return;
    int row0 = blockIdx.x * TILE, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    const typename F::T* w = reinterpret_cast<const typename F::T*>(p.w + p.matrix_bytes * blockIdx.z);
    float acc[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) acc[i] = 0.0f;
    for (int k0 = 0; k0 < p.k; k0 += PLAIN_STEP) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * PLAIN_STEP; i += blockDim.x) {
            int line = i / PLAIN_STEP, k = i % PLAIN_STEP, column = mine.first + line;
            bool inside = k0 + k < p.k;
            ws[line][k] = inside && row0 + line < p.rows ? F::value(LOAD_CONST(w + (u64)(row0 + line) * p.k + k0 + k)) : 0.0f;
            xs[line][k] = 0.0f;
            if (inside && column < mine.end) xs[line][k] = LOAD_CONST(p.x + (u64)activation_of(p, column) * p.k + k0 + k);
        }
        __syncthreads();
#pragma unroll 8
        for (int k = 0; k < PLAIN_STEP; ++k) {
            float a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) a[i] = ws[tx + 16 * i][k], b[i] = xs[ty + 16 * i][k];
#pragma unroll
            for (int i = 0; i < 16; ++i) acc[i] = fmaf(a[i % 4], b[i / 4], acc[i]);
        }
    }
    write_spread(p, acc, row0 + tx, mine.first + ty, mine.end);
}

/// The tiles of a plain type.
template <class F>
struct matmul_of {
    static DEVICE void run(const Product& p) { matmul_plain<F>(p); }
};
#if !defined(OSTRO_HOST) && __CUDA_ARCH__ >= 800
template <>
struct matmul_of<F16> {
    static DEVICE void run(const Product& p) { matmul_plain16<false>(p); }
};
template <>
struct matmul_of<BF16> {
    static DEVICE void run(const Product& p) { matmul_plain16<true>(p); }
};
#endif
