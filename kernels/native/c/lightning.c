/* Lightning attention over packed sequences, silu(qkv) included, chunk by chunk; forward and backward. */
#include "pointwise.h"

#define CHUNK 64

/* One head's chunk in contiguous rows, with the tables of its decay. */
typedef struct {
    int64_t n, dim;
    float *q, *k, *v, *scaled, *scores, *packed, *do_, *dq, *dk, *dv;
    float powers[CHUNK + 1], falling[CHUNK]; /* decay to the i, and to the CHUNK - 1 - i */
} Chunk;

static Chunk workspace(int64_t dim, float slope)
{
    int64_t rows = CHUNK * dim, square = CHUNK * CHUNK, longer = dim > CHUNK ? dim : CHUNK;
    float *at = scratch(1, (8 * rows + square + padded(longer) * longer) * sizeof(float));
    Chunk c = {.dim = dim, .q = at, .k = at + rows, .v = at + 2 * rows, .scaled = at + 3 * rows, .do_ = at + 4 * rows,
        .dq = at + 5 * rows, .dk = at + 6 * rows, .dv = at + 7 * rows, .scores = at + 8 * rows,
        .packed = at + 8 * rows + square};
    for (int64_t i = 0; i <= CHUNK; i++)
        c.powers[i] = fast_exp(-slope * i);
    for (int64_t i = 0; i < CHUNK; i++)
        c.falling[i] = c.powers[CHUNK - 1 - i];
    return c;
}

static void read_chunk(Chunk *c, int64_t n, const float *qkv, int64_t row)
{
    c->n = n;
    float *parts[3] = {c->q, c->k, c->v};
    for (int64_t i = 0; i < n; i++)
        for (int part = 0; part < 3; part++) {
            const float *from = qkv + i * row + part * c->dim;
            float *to = parts[part] + i * c->dim;
#pragma omp simd
            for (int64_t d = 0; d < c->dim; d++)
                to[d] = from[d] * sigmoid(from[d]);
        }
}

INLINE Matrix plain(const float *at, int64_t row) { return (Matrix){at, row, 1}; }
INLINE Matrix turned(const float *at, int64_t row) { return (Matrix){at, 1, row}; }

/* c (+)= a b, with b packed here. */
static void product(int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, float *packed, float *c, int64_t c_row, int add)
{
    pack(k, n, b, packed);
    times_packed(m, n, k, a, packed, c, c_row, add);
}

/* scaled = rows of x times decay^(i + 1), or decay^(n - 1 - i) */
static const float *decayed(const Chunk *c, const float *x, int ahead)
{
    for (int64_t i = 0; i < c->n; i++) {
        float by = c->powers[ahead ? i + 1 : c->n - 1 - i];
#pragma omp simd
        for (int64_t d = 0; d < c->dim; d++)
            c->scaled[i * c->dim + d] = x[i * c->dim + d] * by;
    }
    return c->scaled;
}

static void mask(const Chunk *c)
{
    for (int64_t i = 0; i < c->n; i++) {
        float *row = c->scores + i * CHUNK;
        const float *by = c->falling + CHUNK - 1 - i;
#pragma omp simd
        for (int64_t j = 0; j <= i; j++)
            row[j] *= by[j];
        memset(row + i + 1, 0, (c->n - 1 - i) * sizeof(float));
    }
}

/* state = decay^n state + what the chunk's keys and values add */
static void advance(const Chunk *c, float *state)
{
    int64_t dim = c->dim;
    for (int64_t i = 0; i < dim * dim; i++)
        state[i] *= c->powers[c->n];
    product(dim, dim, c->n, turned(decayed(c, c->k, 0), dim), plain(c->v, dim), c->packed, state, dim, 1);
}

/* One head of one sequence of `length` tokens; its state [D, D] goes from before it to after it. */
static void forward(int64_t length, int64_t dim, float slope, const float *qkv, int64_t row, float *state, float *o,
    int64_t o_row, int begun, int wanted)
{
    Chunk c = workspace(dim, slope);
    for (int64_t start = 0; start < length; start += CHUNK) {
        int64_t n = length - start < CHUNK ? length - start : CHUNK;
        read_chunk(&c, n, qkv + start * row, row);
        product(n, n, dim, plain(c.q, dim), turned(c.k, dim), c.packed, c.scores, CHUNK, 0);
        mask(&c);
        product(n, dim, n, plain(c.scores, CHUNK), plain(c.v, dim), c.packed, o + start * o_row, o_row, 0);
        if (begun || start)
            product(n, dim, dim, plain(decayed(&c, c.q, 1), dim), plain(state, dim), c.packed, o + start * o_row, o_row,
                1);
        if (wanted || start + CHUNK < length)
            advance(&c, state);
    }
}

/* qkv [T, H, 3 D] before silu, borders [S + 1], slopes [H]; o [T, H, D]; initial and final [S, H, D, D] or null. */
void lightning_forward(int64_t sequences, const int64_t *borders, int64_t heads, int64_t dim, const float *qkv,
    const float *slopes, const float *initial, float *o, float *final, int64_t threads)
{
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < sequences * heads; i++) {
        int64_t first = borders[i / heads], length = borders[i / heads + 1] - first, h = i % heads;
        float *state = final ? final + i * dim * dim : scratch(2, dim * dim * sizeof(float));
        if (initial)
            memcpy(state, initial + i * dim * dim, dim * dim * sizeof(float));
        else
            memset(state, 0, dim * dim * sizeof(float));
        forward(length, dim, slopes[h], qkv + (first * heads + h) * 3 * dim, 3 * heads * dim, state,
            o + (first * heads + h) * dim, heads * dim, initial != 0, final != 0);
    }
}

/* d qkv = d silu(qkv) * silu'(qkv), and the chunk's rows into their places */
static void write_chunk(const Chunk *c, const float *qkv, float *dqkv, int64_t row)
{
    const float *parts[3] = {c->dq, c->dk, c->dv};
    for (int64_t i = 0; i < c->n; i++)
        for (int part = 0; part < 3; part++) {
            const float *x = qkv + i * row + part * c->dim, *by = parts[part] + i * c->dim;
            float *to = dqkv + i * row + part * c->dim;
#pragma omp simd
            for (int64_t d = 0; d < c->dim; d++) {
                float open = sigmoid(x[d]);
                to[d] = by[d] * open * (1 + x[d] * (1 - open));
            }
        }
}

/* Gradients of one chunk: `state` entered it, `dstate` is the gradient by what left it and becomes that of `state`. */
static void chunk_backward(Chunk *c, const float *state, float *dstate, int first, int last)
{
    int64_t n = c->n, dim = c->dim;
    product(n, n, dim, plain(c->q, dim), turned(c->k, dim), c->packed, c->scores, CHUNK, 0);
    mask(c);
    product(n, dim, n, turned(c->scores, CHUNK), plain(c->do_, dim), c->packed, c->dv, dim, 0);
    product(n, n, dim, plain(c->do_, dim), turned(c->v, dim), c->packed, c->scores, CHUNK, 0);
    mask(c);
    product(n, dim, n, plain(c->scores, CHUNK), plain(c->k, dim), c->packed, c->dq, dim, 0);
    product(n, dim, n, turned(c->scores, CHUNK), plain(c->q, dim), c->packed, c->dk, dim, 0);
    if (!last) {
        product(n, dim, dim, plain(decayed(c, c->v, 0), dim), turned(dstate, dim), c->packed, c->dk, dim, 1);
        product(n, dim, dim, plain(decayed(c, c->k, 0), dim), plain(dstate, dim), c->packed, c->dv, dim, 1);
    }
    if (first)
        return;
    for (int64_t i = 0; i < dim * dim; i++)
        dstate[i] *= c->powers[n];
    const float *do_ = decayed(c, c->do_, 1);
    product(n, dim, dim, plain(do_, dim), turned(state, dim), c->packed, c->dq, dim, 1);
    product(dim, dim, n, turned(c->q, dim), plain(do_, dim), c->packed, dstate, dim, 1);
}

static void backward(int64_t length, int64_t dim, float slope, const float *qkv, float *dqkv, int64_t row,
    const float *do_, int64_t o_row)
{
    Chunk c = workspace(dim, slope);
    int64_t chunks = (length + CHUNK - 1) / CHUNK, square = dim * dim;
    float *states = scratch(2, (chunks + 1) * square * sizeof(float)), *dstate = states + chunks * square;
    memset(states, 0, square * sizeof(float));
    memset(dstate, 0, square * sizeof(float));
    for (int64_t i = 0; i + 1 < chunks; i++) {
        read_chunk(&c, CHUNK, qkv + i * CHUNK * row, row);
        memcpy(states + (i + 1) * square, states + i * square, square * sizeof(float));
        advance(&c, states + (i + 1) * square);
    }
    for (int64_t i = chunks - 1; i >= 0; i--) {
        int64_t start = i * CHUNK, n = length - start < CHUNK ? length - start : CHUNK;
        read_chunk(&c, n, qkv + start * row, row);
        for (int64_t t = 0; t < n; t++)
            memcpy(c.do_ + t * dim, do_ + (start + t) * o_row, dim * sizeof(float));
        chunk_backward(&c, states + i * square, dstate, i == 0, i == chunks - 1);
        write_chunk(&c, qkv + start * row, dqkv + start * row, row);
    }
}

/* As `lightning_forward` from zero states, whose last ones nobody reads: d qkv [T, H, 3 D] from d o [T, H, D]. */
void lightning_backward(int64_t sequences, const int64_t *borders, int64_t heads, int64_t dim, const float *qkv,
    const float *slopes, const float *do_, float *dqkv, int64_t threads)
{
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < sequences * heads; i++) {
        int64_t first = borders[i / heads], length = borders[i / heads + 1] - first, h = i % heads;
        int64_t at = (first * heads + h) * 3 * dim;
        backward(length, dim, slopes[h], qkv + at, dqkv + at, 3 * heads * dim, do_ + (first * heads + h) * dim,
            heads * dim);
    }
}
