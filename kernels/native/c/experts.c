/* Routing and the experts' SwiGLU over tokens sorted by expert; forward and backward. */
#include "pointwise.h"

typedef struct {
    int64_t tokens, hidden, experts, top_k, inner;
} Sizes;

#define BLOCK 96 /* rows of an expert that go through it together: what they need stays in the second cache */

/* Memory of one thread for an expert's weights, packed twice, and for one block of its rows. */
typedef struct {
    float *in, *out, *rows, *by, *gates, *act, *dact, *packed;
} Workspace;

static Workspace workspace(const Sizes *s)
{
    int64_t hidden = s->hidden, inner = s->inner, widest = padded(hidden > 2 * inner ? hidden : 2 * inner);
    int64_t deepest = hidden > 2 * inner ? hidden : 2 * inner;
    int64_t sizes[] = {widest * deepest, widest * deepest, BLOCK * hidden, BLOCK * hidden, 2 * BLOCK * inner,
        BLOCK * inner, BLOCK * inner, BLOCK * widest};
    float *at = scratch(3, (2 * widest * deepest + BLOCK * (2 * hidden + 4 * inner + widest)) * sizeof(float));
    float *parts[8];
    for (int i = 0; i < 8; at += sizes[i++])
        parts[i] = at;
    return (Workspace){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7]};
}

INLINE Matrix plain(const float *at, int64_t row) { return (Matrix){at, row, 1}; }
INLINE Matrix turned(const float *at, int64_t row) { return (Matrix){at, 1, row}; }

static void gather(int64_t count, int64_t n, const float *from, const int64_t *order, int64_t top_k, float *to)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(to + i * n, from + order[i] / top_k * n, n * sizeof(float));
}

static void scatter(int64_t count, int64_t n, const float *from, const int64_t *order, float *to)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(to + order[i] * n, from + i * n, n * sizeof(float));
}

/* Experts [T, K] and their shares from logits [T, E]. */
void route_forward(int64_t tokens, int64_t experts, int64_t top_k, const float *logits, int64_t *chosen, float *shares,
    int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens > 256)
    for (int64_t t = 0; t < tokens; t++)
        route(experts, logits + t * experts, top_k, chosen + t * top_k, shares + t * top_k);
}

void route_backward(int64_t tokens, int64_t experts, int64_t top_k, const int64_t *chosen, const float *shares,
    const float *dshares, float *dlogits, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && tokens > 256)
    for (int64_t t = 0; t < tokens; t++) {
        float mean = 0;
        memset(dlogits + t * experts, 0, experts * sizeof(float));
        for (int64_t k = t * top_k; k < (t + 1) * top_k; k++)
            mean += shares[k] * dshares[k];
        for (int64_t k = t * top_k; k < (t + 1) * top_k; k++)
            dlogits[t * experts + chosen[k]] = shares[k] * (dshares[k] - mean);
    }
}

/* One expert over its `count` choices: `gates` is kept unless null, `products` lie where the choices do. */
static void expert_forward(const Sizes *s, int64_t count, const float *x, const float *gate_up, const float *down,
    const int64_t *order, float *gates, float *products)
{
    int64_t hidden = s->hidden, inner = s->inner;
    Workspace w = workspace(s);
    pack(hidden, 2 * inner, turned(gate_up, hidden), w.in);
    pack(inner, hidden, turned(down, inner), w.out);
    for (int64_t start = 0; start < count; start += BLOCK, order += BLOCK) {
        int64_t n = count - start < BLOCK ? count - start : BLOCK;
        float *gate = gates ? gates + start * 2 * inner : w.gates;
        gather(n, hidden, x, order, s->top_k, w.rows);
        times_packed(n, 2 * inner, hidden, plain(w.rows, hidden), w.in, gate, 2 * inner, 0);
        for (int64_t i = 0; i < n; i++)
            swiglu(inner, gate + 2 * i * inner, gate + (2 * i + 1) * inner, w.act + i * inner);
        times_packed(n, hidden, inner, plain(w.act, inner), w.out, w.rows, hidden, 0);
        scatter(n, hidden, w.rows, order, products);
    }
}

/* Tokens' sums over their choices, each in its order; weighted where there are shares. */
static void sum_choices(const Sizes *s, int64_t token, const float *products, const float *shares, float *y)
{
    int64_t hidden = s->hidden, first = token * s->top_k;
    memset(y + token * hidden, 0, hidden * sizeof(float));
    for (int64_t k = first; k < first + s->top_k; k++) {
        float share = shares ? shares[k] : 1;
#pragma omp simd
        for (int64_t i = 0; i < hidden; i++)
            y[token * hidden + i] += share * products[k * hidden + i];
    }
}

/* y [T, X] from x [T, X], chosen and shares [T, K]; gate_up [E, 2 I, X], down [E, X, I].
 * Kept for the gradient: order [T K] and ends [E] of the sort, gates [T K, 2 I] in that order, or null. */
void experts_forward(const Sizes *s, const float *x, const int64_t *chosen, const float *shares, const float *gate_up,
    const float *down, float *y, int64_t *order, int64_t *ends, float *gates, int64_t threads)
{
    int64_t weights = s->hidden * s->inner, choices = s->tokens * s->top_k;
    float *products = scratch(1, choices * s->hidden * sizeof(float));
    sort_by_expert(choices, chosen, s->experts, order, ends);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t e = 0; e < s->experts; e++) {
            int64_t start = e ? ends[e - 1] : 0;
            expert_forward(s, ends[e] - start, x, gate_up + 2 * e * weights, down + e * weights, order + start,
                gates ? gates + start * 2 * s->inner : 0, products);
        }
#pragma omp for
        for (int64_t t = 0; t < s->tokens; t++)
            sum_choices(s, t, products, shares, y);
    }
}

/* gate and up become their gradients, from act's before the row's share; act is made anew. Returns the share's own. */
static float swiglu_backward(int64_t n, float share, float *gate, float *act, const float *dact)
{
    float *up = gate + n;
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        act[i] = gate[i] * sigmoid(gate[i]) * up[i];
    float dshare = sum_of(n, act, dact);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float open = sigmoid(gate[i]), by = share * dact[i], silu = gate[i] * open;
        gate[i] = by * up[i] * open * (1 + gate[i] * (1 - open));
        up[i] = by * silu;
    }
    return dshare;
}

/* c (+)= a b for a block of `k` rows that are summed over. */
INLINE void add_product(int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, const Workspace *w, float *c, int add)
{
    pack(k, n, b, w->packed);
    times_packed(m, n, k, a, w->packed, c, n, add);
}

/* One expert: its weights' gradients, its choices' part of dx, and the gradients of their shares. */
static void expert_backward(const Sizes *s, int64_t count, const float *x, const float *shares, const float *gate_up,
    const float *down, const float *dy, const int64_t *order, const float *gates, float *parts, float *dshares,
    float *dgate_up, float *ddown)
{
    int64_t hidden = s->hidden, inner = s->inner;
    Workspace w = workspace(s);
    pack(hidden, inner, plain(down, inner), w.out);
    pack(2 * inner, hidden, plain(gate_up, hidden), w.in);
    if (!count) {
        memset(dgate_up, 0, 2 * inner * hidden * sizeof(float));
        memset(ddown, 0, inner * hidden * sizeof(float));
    }
    for (int64_t start = 0; start < count; start += BLOCK, order += BLOCK) {
        int64_t n = count - start < BLOCK ? count - start : BLOCK;
        memcpy(w.gates, gates + start * 2 * inner, 2 * n * inner * sizeof(float));
        gather(n, hidden, dy, order, s->top_k, w.by);
        times_packed(n, inner, hidden, plain(w.by, hidden), w.out, w.dact, inner, 0);
        for (int64_t i = 0; i < n; i++) {
            float share = shares[order[i]];
            dshares[order[i]] = swiglu_backward(inner, share, w.gates + 2 * i * inner, w.act + i * inner,
                w.dact + i * inner);
#pragma omp simd
            for (int64_t j = 0; j < hidden; j++)
                w.by[i * hidden + j] *= share;
        }
        add_product(hidden, inner, n, turned(w.by, hidden), plain(w.act, inner), &w, ddown, start > 0);
        gather(n, hidden, x, order, s->top_k, w.rows);
        add_product(2 * inner, hidden, n, turned(w.gates, 2 * inner), plain(w.rows, hidden), &w, dgate_up, start > 0);
        times_packed(n, hidden, 2 * inner, plain(w.gates, 2 * inner), w.in, w.rows, hidden, 0);
        scatter(n, hidden, w.rows, order, parts);
    }
}

/* Gradients from dy [T, X] and what `experts_forward` kept. */
void experts_backward(const Sizes *s, const float *x, const float *shares, const float *gate_up, const float *down,
    const float *dy, const int64_t *order, const int64_t *ends, const float *gates, float *dx, float *dshares,
    float *dgate_up, float *ddown, int64_t threads)
{
    int64_t weights = s->hidden * s->inner;
    float *parts = scratch(1, s->tokens * s->top_k * s->hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t e = 0; e < s->experts; e++) {
            int64_t start = e ? ends[e - 1] : 0;
            expert_backward(s, ends[e] - start, x, shares, gate_up + 2 * e * weights, down + e * weights, dy,
                order + start, gates + start * 2 * s->inner, parts, dshares, dgate_up + 2 * e * weights,
                ddown + e * weights);
        }
#pragma omp for
        for (int64_t t = 0; t < s->tokens; t++)
            sum_choices(s, t, parts, 0, dx);
    }
}
