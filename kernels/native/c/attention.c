/* Causal softmax attention over packed sequences, blocks of queries over blocks of keys; forward and backward.
 *
 * A row's sums run along its own keys, from the sequence's first one on. What lies behind a row in its blocks adds zeros.
 * So a row's bits depend on nothing but its query, the keys it sees and their values. */
#include "pointwise.h"

#define QUERIES 192 /* rows of a block */
#define KEYS 256    /* columns of a block: scores [QUERIES, KEYS] stay in the second cache */

typedef struct {
    int64_t heads, kv_heads, dim;
    float scale;
} Shape;

/* One sequence: `n` queries, the first of them after `before` keys. */
typedef struct {
    int64_t n, before, keys;
} Span;

INLINE Matrix plain(const float *at, int64_t row) { return (Matrix){at, row, 1}; }
INLINE Matrix turned(const float *at, int64_t row) { return (Matrix){at, 1, row}; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static Span span(const int64_t *borders, const int64_t *borders_k, int64_t s)
{
    int64_t n = borders[s + 1] - borders[s], keys = borders_k[s + 1] - borders_k[s];
    return (Span){n, keys - n, keys};
}

/* Keys of a block from `first` on that query `i` sees. */
INLINE int64_t seen(Span s, int64_t i, int64_t first)
{
    int64_t count = s.before + i + 1 - first;
    return count < 0 ? 0 : least(count, KEYS);
}

/* Scores [n] of one more block to their exponentials over the greatest so far; `o` [dim] and the total go along. */
static void soften(int64_t count, int64_t n, float scale, float *x, float *most, float *total, float *o, int64_t dim)
{
    float top = *most, sum = 0;
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < count; j++)
        top = x[j] > top ? x[j] : top;
    float kept = fast_exp((*most - top) * scale);
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < count; j++)
        sum += x[j] = fast_exp((x[j] - top) * scale);
    memset(x + count, 0, (n - count) * sizeof(float));
    *total = *total * kept + sum;
    *most = top;
#pragma omp simd
    for (int64_t d = 0; d < dim; d++)
        o[d] *= kept;
}

/* A block of queries from `first` on, for all heads that share a key. */
static void forward(Shape h, Span s, int64_t first, const float *q, const float *k, const float *v, float *o, float *lse)
{
    int64_t n = least(s.n - first, QUERIES), dim = h.dim, group = h.heads / h.kv_heads, row = h.heads * dim;
    int64_t kv_row = h.kv_heads * dim, last = s.before + first + n, square = padded(KEYS) * dim;
    float *packed_k = scratch(1, (square + KEYS * padded(dim) + KEYS * QUERIES + 2 * group * n) * sizeof(float));
    float *packed_v = packed_k + square, *scores = packed_v + KEYS * padded(dim), *most = scores + KEYS * QUERIES;
    float *total = most + group * n;
    for (int64_t i = 0; i < group * n; i++) {
        most[i] = -INFINITY;
        total[i] = 0;
        memset(o + i % n * row + i / n * dim, 0, dim * sizeof(float));
    }
    for (int64_t begin = 0; begin < last; begin += KEYS) {
        int64_t width = least(last - begin, KEYS);
        pack(dim, width, turned(k + begin * kv_row, kv_row), packed_k);
        pack(width, dim, plain(v + begin * kv_row, kv_row), packed_v);
        for (int64_t g = 0; g < group; g++) {
            times_packed(n, width, dim, plain(q + g * dim, row), packed_k, scores, KEYS, 0);
            for (int64_t i = 0; i < n; i++) {
                int64_t count = seen(s, first + i, begin);
                float *x = scores + i * KEYS;
                if (count)
                    soften(count, width, h.scale, x, most + g * n + i, total + g * n + i, o + i * row + g * dim, dim);
                else
                    memset(x, 0, width * sizeof(float));
            }
            times_packed(n, dim, width, plain(scores, KEYS), packed_v, o + g * dim, row, 1);
        }
    }
    for (int64_t i = 0; i < group * n; i++) {
        float *out = o + i % n * row + i / n * dim, share = total[i] > 0 ? 1 / total[i] : 0;
        lse[i % n * h.heads + i / n] = most[i] * h.scale + logf(total[i]);
#pragma omp simd
        for (int64_t d = 0; d < dim; d++)
            out[d] *= share;
    }
}

/* q [T, H, D], k and v [U, Kv, D], borders of queries and of keys [S + 1]; o [T, H, D], log-sum-exps [T, H]. */
void attention_forward(int64_t sequences, const int64_t *borders, const int64_t *borders_k, int64_t heads,
    int64_t kv_heads, int64_t dim, const float *q, const float *k, const float *v, float *o, float *lse, int64_t threads)
{
    Shape h = {heads, kv_heads, dim, 1 / sqrtf((float)dim)};
    int64_t blocks = 0, group = heads / kv_heads;
    int64_t *starts = scratch(0, (sequences + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < sequences; i++) {
        starts[i] = blocks;
        blocks += (borders[i + 1] - borders[i] + QUERIES - 1) / QUERIES;
    }
    starts[sequences] = blocks;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1 && blocks * kv_heads > 1)
    for (int64_t task = 0; task < blocks * kv_heads; task++) {
        int64_t block = blocks - 1 - task / kv_heads, kv = task % kv_heads, left = 0, right = sequences;
        while (right - left > 1) { /* the sequence that the block is of: the last to begin at or before it */
            int64_t middle = (left + right) / 2;
            *(starts[middle] <= block ? &left : &right) = middle;
        }
        int64_t first = (block - starts[left]) * QUERIES, at = borders[left] + first, own = borders_k[left];
        forward(h, span(borders, borders_k, left), first, q + (at * heads + kv * group) * dim,
            k + (own * kv_heads + kv) * dim, v + (own * kv_heads + kv) * dim, o + (at * heads + kv * group) * dim,
            lse + at * heads + kv * group);
    }
}

/* Rows of a block of one head's queries, their gradients, and what is left of both. */
typedef struct {
    float *scores, *dscores, *k, *k_turned, *v_turned, *q, *do_;
} Blocks;

static Blocks blocks_of(int64_t dim)
{
    int64_t square = QUERIES * KEYS, keys = padded(KEYS) * dim, columns = padded(dim);
    float *at = scratch(1, (2 * square + 2 * keys + (KEYS + 2 * QUERIES) * columns) * sizeof(float));
    float *k = at + 2 * square, *q = k + 2 * keys + KEYS * columns;
    return (Blocks){at, at + square, k + 2 * keys, k, k + keys, q, q + QUERIES * columns};
}

/* Gradients of one head by a block of keys, over all queries that see any of it. dq is added to, dk and dv are not. */
static void backward(Shape h, Span s, int64_t begin, const float *q, const float *k, const float *v, const float *do_,
    const float *lse, const float *delta, float *dq, float *dk, float *dv)
{
    int64_t dim = h.dim, row = h.heads * dim, kv_row = h.kv_heads * dim, width = least(s.keys - begin, KEYS);
    Blocks b = blocks_of(dim);
    pack(dim, width, turned(k + begin * kv_row, kv_row), b.k_turned);
    pack(dim, width, turned(v + begin * kv_row, kv_row), b.v_turned);
    pack(width, dim, plain(k + begin * kv_row, kv_row), b.k);
    for (int64_t j = 0; j < width; j++) {
        memset(dk + (begin + j) * row, 0, dim * sizeof(float));
        memset(dv + (begin + j) * row, 0, dim * sizeof(float));
    }
    int64_t skipped = begin > s.before ? (begin - s.before) / QUERIES * QUERIES : 0;
    for (int64_t first = skipped; first < s.n; first += QUERIES) {
        int64_t n = least(s.n - first, QUERIES);
        const float *own = q + first * row, *by = do_ + first * row;
        times_packed(n, width, dim, plain(own, row), b.k_turned, b.scores, KEYS, 0);
        times_packed(n, width, dim, plain(by, row), b.v_turned, b.dscores, KEYS, 0);
        for (int64_t i = 0; i < n; i++) {
            float *x = b.scores + i * KEYS, *dx = b.dscores + i * KEYS;
            float all = lse[(first + i) * h.heads], along = delta[(first + i) * h.heads];
            int64_t count = least(seen(s, first + i, begin), width);
#pragma omp simd
            for (int64_t j = 0; j < count; j++) {
                x[j] = fast_exp(x[j] * h.scale - all);
                dx[j] = x[j] * (dx[j] - along) * h.scale;
            }
            memset(x + count, 0, (width - count) * sizeof(float));
            memset(dx + count, 0, (width - count) * sizeof(float));
        }
        pack(n, dim, plain(by, row), b.do_);
        times_packed(width, dim, n, turned(b.scores, KEYS), b.do_, dv + begin * row, row, 1);
        pack(n, dim, plain(own, row), b.q);
        times_packed(width, dim, n, turned(b.dscores, KEYS), b.q, dk + begin * row, row, 1);
        times_packed(n, dim, width, plain(b.dscores, KEYS), b.k, dq + first * row, row, 1);
    }
}

/* From do [T, H, D] and what the forward left: dq [T, H, D]; dk and dv of every head, [U, H, D]. */
void attention_backward(int64_t sequences, const int64_t *borders, const int64_t *borders_k, int64_t heads,
    int64_t kv_heads, int64_t dim, const float *q, const float *k, const float *v, const float *o, const float *lse,
    const float *do_, float *dq, float *dk, float *dv, float *delta, int64_t threads)
{
    Shape h = {heads, kv_heads, dim, 1 / sqrtf((float)dim)};
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (threads > 1)
    for (int64_t task = 0; task < sequences * heads; task++) {
        int64_t i = task / heads, head = task % heads, kv = head / (heads / kv_heads);
        int64_t at = borders[i] * heads + head, at_k = borders_k[i] * heads + head, own = borders_k[i] * kv_heads + kv;
        Span s = span(borders, borders_k, i);
        for (int64_t t = 0; t < s.n; t++) {
            int64_t r = at + t * heads;
            delta[r] = sum_of(dim, o + r * dim, do_ + r * dim);
            memset(dq + r * dim, 0, dim * sizeof(float));
        }
        for (int64_t begin = 0; begin < s.keys; begin += KEYS)
            backward(h, s, begin, q + at * dim, k + own * dim, v + own * dim, do_ + at * dim, lse + at, delta + at,
                dq + at * dim, dk + at_k * dim, dv + at_k * dim);
    }
}
