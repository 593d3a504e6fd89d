// The kernels of one format (-DBLOCKS=Q4_K or -DPLAIN=F16), and those that know none, under the sanitizers, on shapes that fill no
// warp, block or tile. What they compute is compared with a plain loop; what they touch is the sanitizers' business: every
// buffer is as long as it must be, and no longer.
#include "../format.cu"
#include "../layer.cu"

#include <random>
#include <vector>

using std::vector;

static std::mt19937 random_bits(1);
static int wrong;

static vector<float> floats(size_t n) {
    std::uniform_real_distribution<float> any(-2.0f, 2.0f);
    vector<float> out(n);
    for (float& x : out) x = any(random_bits);
    return out;
}

static void check(const char* name, const vector<float>& got, const vector<double>& want, double limit) {
    double most = 1e-30, worst = 0;
    for (double w : want) most = std::fmax(most, std::fabs(w));
    for (size_t i = 0; i < want.size(); ++i) worst = std::isnan(got[i]) ? INFINITY : std::fmax(worst, std::fabs(got[i] - want[i]));
    if (!(worst <= limit * most)) {
        fprintf(stderr, "%s: off by %g of %g\n", name, worst, most);
        ++wrong;
    }
}

template <class A>
static void run(const char* name, void (*kernel)(A), uint3 grid, unsigned threads, size_t shared, const A& args) {
    shim::launch(grid, threads, shared, name, [&] { kernel(args); });
}
#define RUN(kernel, grid, threads, shared, args) run(#kernel, kernel, grid, threads, shared, args)

/// As the host's `ceil`.
static unsigned over(size_t a, size_t b) { return (unsigned)((a + b - 1) / b); }

#ifdef BLOCKS
enum { ELEMS = BLOCKS::ELEMS > 32 ? (int)BLOCKS::ELEMS : 32 };
#else
enum { ELEMS = 32 };
#endif

/// One of a group's matrices as floats, by the format's own unpacking, block after block.
static vector<double> decoded(const u8* w, int rows, int k, const i8* grid) {
    vector<double> out((size_t)rows * k);
#ifdef BLOCKS
    for (size_t i = 0; i < out.size() / 32; ++i) {
        size_t row = i / (k / 32), sub = i % (k / 32), per = BLOCKS::ELEMS / 32;
        Sub s;
        both(s.m, 0.0f);
        BLOCKS::unpack(w + (row * (k / BLOCKS::ELEMS) + sub / per) * BLOCKS::BYTES, (int)(sub % per), grid, s);
        for (int j = 0; j < 32; ++j) out[32 * i + j] = (double)s.d[j / 16] * (i8)((u32)s.q[j / 4] >> j % 4 * 8) - s.m[j / 16];
    }
#else
    (void)grid;
    for (size_t i = 0; i < out.size(); ++i) out[i] = PLAIN::value(reinterpret_cast<const PLAIN::T*>(w)[i]);
#endif
    return out;
}

static void products(const vector<i8>& grid, int rows, int k, int n, int groups) {
#ifdef BLOCKS
    size_t matrix = (size_t)rows * (k / BLOCKS::ELEMS) * BLOCKS::BYTES;
#else
    size_t matrix = (size_t)rows * k * sizeof(PLAIN::T);
#endif
    // Rows are read from the start of a sector on in whole pieces of 16 bytes, so 32 more are reserved, as on a card.
    struct alignas(32) Sector { uint4 halves[2]; };
    vector<Sector> room((matrix * groups + 32 + 31) / 32);
    u8* w = reinterpret_cast<u8*>(room.data());
    for (size_t i = 0; i < matrix * groups; ++i) w[i] = (u8)(random_bits() & 0x3f);  // no scale that is not a number
    vector<float> x = floats((size_t)n * k);
    vector<int4> q_room((size_t)n * k / 16);
    i8* q = reinterpret_cast<i8*>(q_room.data());
    vector<float> d((size_t)n * k / 32), s(d.size());
#ifdef BLOCKS
    QuantizeArgs quantize = {x.data(), q, d.data(), s.data(), (int)d.size()};
    if (k % 256 == 0) {
        quantize.blocks /= 8;
        vector<float4> aligned(x.size() / 4);
        memcpy(aligned.data(), x.data(), x.size() * 4);
        quantize.x = reinterpret_cast<float*>(aligned.data());
        RUN(quantize256, (uint3{over(quantize.blocks, 8), 1, 1}), 256, 0, quantize);
    } else {
        RUN(quantize32, (uint3{over(quantize.blocks, 8), 1, 1}), 256, 0, quantize);
    }
    for (size_t i = 0; i < x.size(); ++i) x[i] = (float)q[i] * d[i / 32];
#endif
    // With groups each column goes to one of them, unevenly.
    vector<int> offsets(groups + 1), pick(n);
    for (int g = 0; g <= groups; ++g) offsets[g] = g == groups ? n : (int)((size_t)n * g * g / groups / groups);
    for (int c = 0; c < n; ++c) pick[c] = n - 1 - c;
    vector<double> want;
    for (int g = 0; g < groups; ++g) {
        vector<double> all = decoded(w + matrix * g, rows, k, grid.data());
        for (int c = groups == 1 ? 0 : offsets[g]; c < (groups == 1 ? n : offsets[g + 1]); ++c) {
            const float* column = &x[(size_t)(groups == 1 ? c : pick[c]) * k];
            for (int r = 0; r < rows; ++r) {
                double sum = 0;
                for (int i = 0; i < k; ++i) sum += all[(size_t)r * k + i] * column[i];
                want.push_back(sum);
            }
        }
    }
    vector<float> out((size_t)n * rows, NAN);
    Product p = {w, {q, d.data(), s.data()}, x.data(), out.data(), groups > 1 ? offsets.data() : nullptr,
                 groups > 1 ? pick.data() : nullptr, grid.data(), matrix, rows, k, n, groups};
    unsigned z = (unsigned)groups;
    // Sums of some formats are rounded to 11 bits, as on the card.
    const double limit = 1e-3;
    RUN(matvec_8, (uint3{over(rows, 16), 1, z}), 256, 0, p);
    check("matvec_8", out, want, limit);
    out.assign(out.size(), NAN);
#ifdef BLOCKS
    unsigned per_block = MATVEC_WARPS * Stream<BLOCKS, 1>::ROWS;
#else
    unsigned per_block = MATVEC_WARPS * 4;
#endif
    RUN(matvec_1, (uint3{over(rows, per_block), 1, z}), 256, 0, p);
    check("matvec_1", out, want, limit);
    out.assign(out.size(), NAN);
    RUN(matmul_n, (uint3{over(rows, 64), over(n, 64), z}), 256, 0, p);
    check("matmul_n", out, want, limit);
}

static void layers() {
    const int n = 3, dim = 70, experts = 5, active = 2;
    vector<float> x = floats(n * dim), weight = floats(dim), out(n * dim, NAN);
    for (int centred = 0; centred < 2; ++centred) {
        NormArgs norm_args = {x.data(), weight.data(), out.data(), dim, 1e-5f, centred, dim, 1};
        RUN(norm, (uint3{n, 1, 1}), 256, 0, norm_args);
    }
    EachArgs each = {out.data(), x.data(), n, dim, 0.5f, 3.0f};
    for (auto kernel : {add, silu_gate, gelu_gate, scale_cap}) run("each", kernel, uint3{over(n * dim, 256), 1, 1}, 256, 0, each);
    each.y = weight.data();
    RUN(bias, (uint3{1, 1, 1}), 256, 0, each);

    vector<float> cosines = floats(n * 8), sines = floats(n * 8);
    RopeArgs rope_args = {x.data(), cosines.data(), sines.data(), n, 2, 35, 8, 0};
    for (rope_args.adjacent = 0; rope_args.adjacent < 2; ++rope_args.adjacent) RUN(rope, (uint3{1, 1, 1}), 256, 0, rope_args);

    vector<float> logits = floats(n * experts), weights(n * active), rows = floats(n * active * dim);
    vector<int> chosen(n * active), offsets(experts + 1), token(n * active), pair(n * active);
    vector<float> choice_bias = floats(experts);
    RouteArgs route = {logits.data(), nullptr, chosen.data(), weights.data(), offsets.data(), token.data(), pair.data(),
                       n, experts, active, 0, 0, 0, 0, 1, 1.0f};
    RUN(choose, (uint3{1, 1, 1}), 256, 0, route);
    RouteArgs grouped = route;
    grouped.bias = choice_bias.data();
    grouped.experts = 4, grouped.groups = 2, grouped.groups_active = 1, grouped.group_best = 2, grouped.sigmoid = 1;
    RUN(choose, (uint3{1, 1, 1}), 256, 0, grouped);
    RUN(choose, (uint3{1, 1, 1}), 256, 0, route);
    GateRowsArgs gate = {out.data(), x.data(), weight.data(), dim};
    RUN(gate_rows, (uint3{n, 1, 1}), 256, 0, gate);
    MoveHeadsArgs move = {x.data(), out.data(), n, 2, 35, dim, 35, 35, 35 * n};
    RUN(move_heads, (uint3{1, 1, 1}), 256, 0, move);
    RUN(group, (uint3{1, 1, 1}), 512, 0, route);
    CombineArgs combine_args = {rows.data(), weights.data(), pair.data(), out.data(), n, active, dim};
    RUN(combine, (uint3{1, 1, 1}), 256, 0, combine_args);
    PickArgs pick_args = {x.data(), token.data(), out.data(), n, dim};
    RUN(pick, (uint3{1, 1, 1}), 256, 0, pick_args);
    vector<float> best(7);
    vector<int> ids(7);
    TopArgs top_args = {x.data(), nullptr, best.data(), ids.data(), n * dim, 7};
    RUN(top, (uint3{1, 1, 1}), 1024, 0, top_args);
    for (int i = 1; i < 7; ++i)
        if (!(best[i - 1] >= best[i]) || best[i] != x[ids[i]]) ++wrong;
}

static void attention(int type) {
    const int n = 5, heads = 6, kv_heads = 2, width = 40, capacity = 90, first = 60, held = first + n;
    int bytes = kv_row_bytes(type, width);
    vector<float> q = floats(n * heads * width), rows = floats(held * kv_heads * width), out(n * heads * width, NAN);
    vector<u8> k(kv_heads * capacity * bytes), v(k.size());
    StoreArgs store_args = {rows.data(), k.data(), type, held, kv_heads, width, capacity, 0};
    RUN(store, (uint3{over(held * kv_heads, 8), 1, 1}), 256, 0, store_args);
    store_args.cache = v.data();
    RUN(store, (uint3{over(held * kv_heads, 8), 1, 1}), 256, 0, store_args);
    vector<double> want;
    for (int row = 0; row < n * heads; ++row) {
        int pos = first + row / heads, head = row % heads / (heads / kv_heads);
        vector<double> score(pos + 1), sums(width);
        double total = 0;
        for (int p = 0; p <= pos; ++p) {
            for (int i = 0; i < width; ++i) score[p] += (double)q[row * width + i] * kv_load(type, &k[(head * capacity + p) * bytes], i);
            total += score[p] = std::exp(score[p] * 0.1);
            for (int i = 0; i < width; ++i) sums[i] += score[p] * kv_load(type, &v[(head * capacity + p) * bytes], i);
        }
        for (double sum : sums) want.push_back(sum / total);
    }
    for (int chunk : {96, 32}) {
        int chunks = (int)over(held, chunk);
        vector<float> parts(chunks * n * heads * (width + 2));
        int row = kv_row_bytes(type, width);
        AttendArgs a = {q.data(), k.data(), v.data(), out.data(), parts.data(), type, type, row, row, n, first, heads, kv_heads, width, width,
                        capacity, capacity, chunk, chunks, 0.1f, 0.0f};
        size_t shared = 4 * (16 * (width + 33) + ATTEND_TILE * SLICE_STRIDE);
        RUN(attend_128, (uint3{over(n * heads / kv_heads, 16), (unsigned)kv_heads, (unsigned)chunks}), 128, shared, a);
        if (chunks > 1) RUN(attend_join, (uint3{(unsigned)(n * heads), 1, 1}), 128, 0, a);
        check("attend", out, want, 1e-4);
    }
    vector<float> angles(12, 0.6f);
    ShiftArgs shift_args = {k.data(), angles.data(), angles.data(), type, width, capacity, 3, 20, held, 12, 0, 0};
    RUN(shift, (uint3{(unsigned)kv_heads, 1, 1}), 256, 0, shift_args);
    shift_args.cos = nullptr;
    RUN(shift, (uint3{(unsigned)kv_heads, 1, 1}), 256, 0, shift_args);
}

int main() {
    vector<i8> grid(1024 * 8);
    for (i8& point : grid) point = (i8)(1 + random_bits() % 40);
    products(grid, 35, ELEMS * 5 + (ELEMS == 32 ? 1024 : 0), 3, 1);
    products(grid, 66, 512, 11, 1);
    products(grid, 9, 256, 13, 3);
    layers();
    for (int type : {KV_F32, KV_F16, KV_Q8_0}) attention(type);
    if (wrong) fprintf(stderr, "%d results are wrong\n", wrong);
    return wrong != 0;
}
