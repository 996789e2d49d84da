/* Routing and the experts' SwiGLU over tokens sorted by expert; forward and backward. */
#include "pointwise.h"

typedef struct {
    int64_t tokens, hidden, experts, top_k, inner;
} Sizes;

/* c = a b of one expert's rows; b is packed into memory of this thread. */
static void product(int64_t m, int64_t n, int64_t k, Matrix a, Matrix b, float *c)
{
    float *packed = scratch(3, padded(n) * k * sizeof(float));
    pack(k, n, b, packed);
    times_packed(m, n, k, a, packed, c, n, 0);
}

static void gather(int64_t count, int64_t n, const float *from, const int64_t *order, int64_t top_k, float *to)
{
    for (int64_t i = 0; i < count; i++)
        memcpy(to + i * n, from + order[i] / top_k * n, n * sizeof(float));
}

/* Experts [T, K] and their shares from logits [T, E]. */
void route_forward(int64_t tokens, int64_t experts, int64_t top_k, const float *logits, int64_t *chosen, float *shares,
    int64_t threads)
{
    (void)threads;
    for (int64_t t = 0; t < tokens; t++)
        route(experts, logits + t * experts, top_k, chosen + t * top_k, shares + t * top_k);
}

void route_backward(int64_t tokens, int64_t experts, int64_t top_k, const int64_t *chosen, const float *shares,
    const float *dshares, float *dlogits, int64_t threads)
{
    (void)threads;
    memset(dlogits, 0, tokens * experts * sizeof(float));
    for (int64_t t = 0; t < tokens * top_k; t += top_k) {
        float mean = 0;
        for (int64_t k = t; k < t + top_k; k++)
            mean += shares[k] * dshares[k];
        for (int64_t k = t; k < t + top_k; k++)
            dlogits[t / top_k * experts + chosen[k]] = shares[k] * (dshares[k] - mean);
    }
}

/* y [T, X] from x [T, X], chosen and shares [T, K]; gate_up [E, 2 I, X], down [E, X, I].
 * Kept for the gradient: order [T K] and ends [E] of the sort, gates [T K, 2 I] in that order. */
void experts_forward(const Sizes *s, const float *x, const int64_t *chosen, const float *shares, const float *gate_up,
    const float *down, float *y, int64_t *order, int64_t *ends, float *gates, int64_t threads)
{
    int64_t hidden = s->hidden, inner = s->inner, top_k = s->top_k, choices = s->tokens * top_k;
    float *products = scratch(1, choices * hidden * sizeof(float));
    sort_by_expert(choices, chosen, s->experts, order, ends);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t e = 0; e < s->experts; e++) {
            int64_t start = e ? ends[e - 1] : 0, count = ends[e] - start;
            float *rows = scratch(4, count * hidden * sizeof(float)), *act = scratch(5, count * inner * sizeof(float));
            float *gate = gates + start * 2 * inner;
            gather(count, hidden, x, order + start, top_k, rows);
            product(count, 2 * inner, hidden, (Matrix){rows, hidden, 1}, (Matrix){gate_up + e * 2 * inner * hidden, 1,
                hidden}, gate);
            for (int64_t i = 0; i < count; i++)
                swiglu(inner, gate + 2 * i * inner, gate + (2 * i + 1) * inner, act + i * inner);
            product(count, hidden, inner, (Matrix){act, inner, 1}, (Matrix){down + e * hidden * inner, 1, inner}, rows);
            for (int64_t i = 0; i < count; i++)
                memcpy(products + order[start + i] * hidden, rows + i * hidden, hidden * sizeof(float));
        }
#pragma omp for
        for (int64_t t = 0; t < s->tokens; t++) {
            memset(y + t * hidden, 0, hidden * sizeof(float));
            for (int64_t k = 0; k < top_k; k++) {
                const float *from = products + (t * top_k + k) * hidden, share = shares[t * top_k + k];
#pragma omp simd
                for (int64_t i = 0; i < hidden; i++)
                    y[t * hidden + i] += share * from[i];
            }
        }
    }
}

/* By gate and up from act's gradient, scaled by the row's share; returns the share's own gradient. */
static float swiglu_backward(int64_t n, float share, float *gate, float *dact, float *act)
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

/* One expert: its weights' gradients, its rows' part of dx, and the gradients of the shares it was chosen with. */
static void expert_backward(const Sizes *s, int64_t e, int64_t count, const float *x,
    const float *gate_up, const float *down, const float *dy, const float *shares, const int64_t *order, float *gate,
    float *dgate_up, float *ddown, float *dshares, float *dx_parts)
{
    int64_t hidden = s->hidden, inner = s->inner, weights = e * 2 * inner * hidden;
    float *rows = scratch(4, count * hidden * sizeof(float)), *by = scratch(5, count * hidden * sizeof(float));
    float *act = scratch(6, count * inner * sizeof(float)), *dact = scratch(7, count * inner * sizeof(float));
    gather(count, hidden, dy, order, s->top_k, by);
    product(count, inner, hidden, (Matrix){by, hidden, 1}, (Matrix){down + weights / 2, inner, 1}, dact);
    for (int64_t i = 0; i < count; i++) {
        float share = shares[order[i]];
        dshares[order[i]] = swiglu_backward(inner, share, gate + 2 * i * inner, dact + i * inner, act + i * inner);
#pragma omp simd
        for (int64_t j = 0; j < hidden; j++)
            by[i * hidden + j] *= share;
    }
    product(hidden, inner, count, (Matrix){by, 1, hidden}, (Matrix){act, inner, 1}, ddown + weights / 2);
    gather(count, hidden, x, order, s->top_k, rows);
    product(2 * inner, hidden, count, (Matrix){gate, 1, 2 * inner}, (Matrix){rows, hidden, 1}, dgate_up + weights);
    product(count, hidden, 2 * inner, (Matrix){gate, 2 * inner, 1}, (Matrix){gate_up + weights, hidden, 1}, rows);
    for (int64_t i = 0; i < count; i++)
        memcpy(dx_parts + order[i] * hidden, rows + i * hidden, hidden * sizeof(float));
}

/* Gradients from dy [T, X] and what `experts_forward` kept, of which `gates` is used up. */
void experts_backward(const Sizes *s, const float *x, const float *shares, const float *gate_up, const float *down,
    const float *dy, const int64_t *order, const int64_t *ends, float *gates, float *dx, float *dshares,
    float *dgate_up, float *ddown, int64_t threads)
{
    int64_t hidden = s->hidden, top_k = s->top_k, choices = s->tokens * top_k;
    float *parts = scratch(1, choices * hidden * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(dynamic)
        for (int64_t e = 0; e < s->experts; e++) {
            int64_t start = e ? ends[e - 1] : 0;
            expert_backward(s, e, ends[e] - start, x, gate_up, down, dy, shares, order + start,
                gates + start * 2 * s->inner, dgate_up, ddown, dshares, parts);
        }
#pragma omp for
        for (int64_t t = 0; t < s->tokens; t++) {
            memset(dx + t * hidden, 0, hidden * sizeof(float));
            for (int64_t k = 0; k < top_k; k++) {
#pragma omp simd
                for (int64_t i = 0; i < hidden; i++)
                    dx[t * hidden + i] += parts[(t * top_k + k) * hidden + i];
            }
        }
    }
}
