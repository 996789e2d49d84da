/* One token for each of some sequences, through every layer in one call: threads share out the rows and meet at the
 * end only. kernels/native/decode.py has the same structures in ctypes. */
#include "pointwise.h"

typedef struct {
    int64_t hidden, heads, kv_heads, dim, experts, top_k, inner, shared, vocabulary, layers;
    int64_t rotated;                       /* dimensions of a head that RoPE turns */
    int64_t page_tokens, table_row;        /* tokens of a page; pages a row of the table */
    int64_t postnorm;
    float eps, linear_eps;
    float mlp_alpha, mlp_beta;
    const float *embedding, *final_norm, *head, *frequencies; /* head: packed */
} Network;

typedef struct {
    const float *input_norm, *mixer_norm, *post_norm, *decay; /* mixer_norm and decay: of lightning layers */
    const float *qkv, *gate, *out;                            /* packed; gate: of lightning layers */
    const float *router, *gate_up, *down;                     /* packed; the experts' one after the other */
    const float *shared_gate_up, *shared_down, *coefficient;  /* packed but for the last */
    float *state;                                             /* [slots, H, D, D], or null in a softmax layer */
    float *keys, *values;                                     /* [pages, Kv, P, D] */
    int64_t *choices;                                         /* [slots, top_k] to be written, or null */
    float alpha, beta;
} Layer;

typedef struct {
    float *x, *normed, *qkv, *mixed, *gate, *update, *shared, *logits, *rows, *inner, *products;
    float *shares;
    int64_t *experts, *order, *ends;
} Buffers;

static Buffers buffers(const Network *net, int64_t n, int64_t longest)
{
    int64_t width = net->heads * net->dim, kv = net->kv_heads * net->dim, choices = n * net->top_k;
    int64_t inner = 2 * (net->inner * net->top_k > net->shared ? net->inner * net->top_k : net->shared);
    int64_t sizes[] = {n * net->hidden, n * net->hidden, n * (width + (2 * kv > 2 * width ? 2 * kv : 2 * width)),
        n * width, n * width, n * net->hidden, n * net->hidden, n * net->experts + longest, choices * net->hidden,
        n * inner, choices * net->hidden, choices};
    size_t total = 0;
    for (int i = 0; i < 12; i++)
        total += (sizes[i] + 15) & ~15;
    float *at = scratch(0, total * sizeof(float)), *parts[12];
    for (int i = 0; i < 12; at += (sizes[i] + 15) & ~15, i++)
        parts[i] = at;
    int64_t *ints = scratch(1, (2 * choices + net->experts) * sizeof(int64_t));
    return (Buffers){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7], parts[8],
        parts[9], parts[10], parts[11], ints, ints + choices, ints + 2 * choices};
}

INLINE void product(int64_t m, int64_t n, int64_t k, const float *a, const float *packed, float *c)
{
    times_packed(m, n, k, (Matrix){a, k, 1}, packed, c, n, 0);
}

/* S = decay S + k v^T, o = q^T S of one head; qkv lie one after the other, before silu. */
static void lightning_head(int64_t dim, float *qkv, float decay, float *state, float *o)
{
    float *q = qkv, *k = qkv + dim, *v = qkv + 2 * dim;
#pragma omp simd
    for (int64_t i = 0; i < 3 * dim; i++)
        qkv[i] *= sigmoid(qkv[i]);
    for (int64_t start = 0; start < dim; start += COLUMNS) {
        int64_t width = dim - start < COLUMNS ? dim - start : COLUMNS;
        if (width == COLUMNS) {
            vec left = *(vec *)(v + start), right = *(vec *)(v + start + LANES), o_left = {0}, o_right = {0};
            for (int64_t d = 0; d < dim; d++) {
                float *row = state + d * dim + start;
                vec s_left = *(vec *)row * decay + k[d] * left, s_right = *(vec *)(row + LANES) * decay + k[d] * right;
                *(vec *)row = s_left;
                *(vec *)(row + LANES) = s_right;
                o_left += q[d] * s_left;
                o_right += q[d] * s_right;
            }
            *(vec *)(o + start) = o_left;
            *(vec *)(o + start + LANES) = o_right;
            continue;
        }
        memset(o + start, 0, width * sizeof(float));
        for (int64_t d = 0; d < dim; d++)
            for (int64_t e = start; e < start + width; e++) {
                float s = state[d * dim + e] * decay + k[d] * v[e];
                state[d * dim + e] = s;
                o[e] += q[d] * s;
            }
    }
}

static void lightning(const Network *net, const Layer *layer, Buffers b, int64_t first, int64_t n)
{
    int64_t heads = net->heads, dim = net->dim, width = heads * dim;
    product(n, 3 * width, net->hidden, b.normed, layer->qkv, b.qkv);
    product(n, width, net->hidden, b.normed, layer->gate, b.gate);
    for (int64_t r = 0; r < n; r++) {
        for (int64_t h = 0; h < heads; h++)
            lightning_head(dim, b.qkv + (r * heads + h) * 3 * dim, layer->decay[h],
                layer->state + ((first + r) * heads + h) * dim * dim, b.mixed + (r * heads + h) * dim);
        float *o = b.mixed + r * width, *gate = b.gate + r * width;
        rms_norm(width, o, layer->mixer_norm, net->linear_eps, o);
#pragma omp simd
        for (int64_t i = 0; i < width; i++)
            o[i] *= sigmoid(gate[i]);
    }
}

static void rotate(const Network *net, int64_t heads, int64_t position, float *x)
{
    int64_t half = net->rotated / 2;
    for (int64_t i = 0; i < half; i++) {
        float angle = (float)position * net->frequencies[i], c = cosf(angle), s = sinf(angle);
        for (int64_t h = 0; h < heads; h++) {
            float *at = x + h * net->dim + i, a = at[0], b = at[half];
            at[0] = a * c - b * s;
            at[half] = b * c + a * s;
        }
    }
}

/* One query head over the `length` keys of its sequence. */
static void attend(const Network *net, const Layer *layer, const int64_t *pages, int64_t kv, int64_t length,
    const float *q, float *scores, float *o)
{
    int64_t dim = net->dim, size = net->page_tokens;
    float most = -INFINITY, total = 0, scale = 1 / sqrtf((float)dim);
    for (int64_t t = 0; t < length; t++) {
        const float *k = layer->keys + ((pages[t / size] * net->kv_heads + kv) * size + t % size) * dim;
        scores[t] = sum_of(dim, q, k) * scale;
        most = scores[t] > most ? scores[t] : most;
    }
    for (int64_t t = 0; t < length; t++)
        total += scores[t] = fast_exp(scores[t] - most);
    memset(o, 0, dim * sizeof(float));
    for (int64_t t = 0; t < length; t++) {
        const float *v = layer->values + ((pages[t / size] * net->kv_heads + kv) * size + t % size) * dim;
        float share = scores[t] / total;
#pragma omp simd
        for (int64_t i = 0; i < dim; i++)
            o[i] += share * v[i];
    }
}

static void softmax_attention(const Network *net, const Layer *layer, Buffers b, int64_t n, const int64_t *position,
    const int64_t *table)
{
    int64_t dim = net->dim, heads = net->heads, kv_heads = net->kv_heads, size = net->page_tokens;
    int64_t width = heads * dim, kv = kv_heads * dim;
    product(n, width + 2 * kv, net->hidden, b.normed, layer->qkv, b.qkv);
    for (int64_t r = 0; r < n; r++) {
        float *q = b.qkv + r * (width + 2 * kv);
        const int64_t *pages = table + r * net->table_row, at = position[r];
        rotate(net, heads + kv_heads, at, q);
        for (int64_t h = 0; h < kv_heads; h++) {
            int64_t to = ((pages[at / size] * kv_heads + h) * size + at % size) * dim;
            memcpy(layer->keys + to, q + width + h * dim, dim * sizeof(float));
            memcpy(layer->values + to, q + width + kv + h * dim, dim * sizeof(float));
        }
        for (int64_t h = 0; h < heads; h++)
            attend(net, layer, pages, h / (heads / kv_heads), at + 1, q + h * dim, b.logits + n * net->experts,
                b.mixed + r * width + h * dim);
    }
}

/* b.update = the experts' weighted sum, each token's in the order of its choices. */
static void experts(const Network *net, const Layer *layer, Buffers b, int64_t n)
{
    int64_t hidden = net->hidden, inner = net->inner, top_k = net->top_k, choices = n * top_k;
    product(n, net->experts, hidden, b.normed, layer->router, b.logits);
    for (int64_t r = 0; r < n; r++)
        route(net->experts, b.logits + r * net->experts, top_k, b.experts + r * top_k, b.shares + r * top_k);
    sort_by_expert(choices, b.experts, net->experts, b.order, b.ends);
    for (int64_t i = 0; i < choices; i++)
        memcpy(b.rows + i * hidden, b.normed + b.order[i] / top_k * hidden, hidden * sizeof(float));
    for (int64_t e = 0, start = 0; e < net->experts; start = b.ends[e++]) {
        int64_t count = b.ends[e] - start;
        float *rows = b.rows + start * hidden;
        if (!count)
            continue;
        product(count, 2 * inner, hidden, rows, layer->gate_up + e * padded(2 * inner) * hidden, b.inner);
        for (int64_t r = 0; r < count; r++) /* row r comes to lie before what is still to be read */
            swiglu(inner, b.inner + 2 * r * inner, b.inner + (2 * r + 1) * inner, b.inner + r * inner);
        product(count, hidden, inner, b.inner, layer->down + e * padded(hidden) * inner, rows);
    }
    for (int64_t i = 0; i < choices; i++)
        memcpy(b.products + b.order[i] * hidden, b.rows + i * hidden, hidden * sizeof(float));
    for (int64_t r = 0; r < n; r++) {
        float *y = b.update + r * hidden;
        memset(y, 0, hidden * sizeof(float));
        for (int64_t k = 0; k < top_k; k++) {
            const float *from = b.products + (r * top_k + k) * hidden, share = b.shares[r * top_k + k];
#pragma omp simd
            for (int64_t i = 0; i < hidden; i++)
                y[i] += share * from[i];
        }
    }
}

static void shared_expert(const Network *net, const Layer *layer, Buffers b, int64_t n)
{
    int64_t hidden = net->hidden, inner = net->shared;
    product(n, 2 * inner, hidden, b.normed, layer->shared_gate_up, b.inner);
    for (int64_t r = 0; r < n; r++)
        swiglu(inner, b.inner + 2 * r * inner, b.inner + (2 * r + 1) * inner, b.inner + r * inner);
    product(n, hidden, inner, b.inner, layer->shared_down, b.shared);
    for (int64_t r = 0; r < n; r++) {
        float share = sigmoid(sum_of(hidden, b.normed + r * hidden, layer->coefficient));
#pragma omp simd
        for (int64_t i = r * hidden; i < (r + 1) * hidden; i++)
            b.update[i] = b.update[i] * (1 - share) + b.shared[i] * share;
    }
}

/* x = alpha * (normed x, or x itself before it) + beta * update */
static void residual(const Network *net, Buffers b, int64_t n, float alpha, float beta)
{
    const float *kept = net->postnorm ? b.normed : b.x;
#pragma omp simd
    for (int64_t i = 0; i < n * net->hidden; i++)
        b.x[i] = alpha * kept[i] + beta * b.update[i];
}

static void norms(const Network *net, Buffers b, int64_t n, const float *weight)
{
    for (int64_t r = 0; r < n; r++)
        rms_norm(net->hidden, b.x + r * net->hidden, weight, net->eps, b.normed + r * net->hidden);
}

static void rows_through(const Network *net, const Layer *layers, int64_t first, int64_t n, const int64_t *token,
    const int64_t *position, const int64_t *table, float *logits)
{
    int64_t hidden = net->hidden, longest = 0;
    for (int64_t r = 0; r < n; r++)
        longest = position[r] + 1 > longest ? position[r] + 1 : longest;
    Buffers b = buffers(net, n, longest);
    for (int64_t r = 0; r < n; r++)
        memcpy(b.x + r * hidden, net->embedding + token[r] * hidden, hidden * sizeof(float));
    for (int64_t l = 0; l < net->layers; l++) {
        const Layer *layer = layers + l;
        norms(net, b, n, layer->input_norm);
        if (layer->state)
            lightning(net, layer, b, first, n);
        else
            softmax_attention(net, layer, b, n, position, table);
        product(n, hidden, net->heads * net->dim, b.mixed, layer->out, b.update);
        residual(net, b, n, layer->alpha, layer->beta);
        norms(net, b, n, layer->post_norm);
        experts(net, layer, b, n);
        if (layer->choices)
            memcpy(layer->choices + first * net->top_k, b.experts, n * net->top_k * sizeof(int64_t));
        if (layer->shared_gate_up)
            shared_expert(net, layer, b, n);
        residual(net, b, n, net->mlp_alpha, net->mlp_beta);
    }
    norms(net, b, n, net->final_norm);
    product(n, net->vocabulary, hidden, b.normed, net->head, logits);
}

/* logits [n, V] after token [n] at position [n]; table [n, table_row] has the pages of each sequence. */
void decode(const Network *net, const Layer *layers, int64_t n, const int64_t *token, const int64_t *position,
    const int64_t *table, float *logits, int64_t threads)
{
    int64_t share = (n + threads - 1) / threads;
    share = share < 256 ? share : 256; /* rows whose activations fit the second cache */
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t first = 0; first < n; first += share)
        rows_through(net, layers, first, n - first < share ? n - first : share, token + first, position + first,
            table + first * net->table_row, logits + first * net->vocabulary);
}

/* `count` weights [n, k] the way `product` wants them. */
void pack_weights(int64_t count, int64_t n, int64_t k, const float *weights, float *packed, int64_t threads)
{
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        pack(k, n, (Matrix){weights + i * n * k, 1, k}, packed + i * padded(n) * k);
}

int64_t packed_columns(int64_t n) { return padded(n); }
