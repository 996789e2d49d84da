/* The mixers of the exact mode: token by token, in packed rows as in decoding. */
#include "pointwise.h"

/* S = decay S + k v^T, o = q^T S along each sequence, from qkv [T, H, 3, D] before silu; state [S, H, D, D] is kept. */
void exact_lightning(int64_t sequences, const int64_t *borders, int64_t heads, int64_t dim, const float *qkv,
    const float *decay, float *state, float *o, int64_t threads)
{
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < sequences * heads; i++) {
        int64_t h = i % heads;
        float *s = state + i * dim * dim, *own = scratch(0, 3 * dim * sizeof(float));
        for (int64_t t = borders[i / heads]; t < borders[i / heads + 1]; t++) {
            const float *from = qkv + (t * heads + h) * 3 * dim;
            float *out = o + (t * heads + h) * dim;
#pragma omp simd
            for (int64_t d = 0; d < 3 * dim; d++)
                own[d] = from[d] * sigmoid(from[d]);
            memset(out, 0, dim * sizeof(float));
            for (int64_t d = 0; d < dim; d++) {
                float q = own[d], k = own[dim + d], *row = s + d * dim;
                const float *v = own + 2 * dim;
#pragma omp simd
                for (int64_t e = 0; e < dim; e++) {
                    row[e] = row[e] * decay[h] + k * v[e];
                    out[e] += q * row[e];
                }
            }
        }
    }
}

/* Queries [rows, H, D] over their first `seen` keys. With a table [rows, table_row] these lie in pages [N, Kv, size, D],
 * without one packed, [U, Kv, D], from `first` on. */
void exact_attention(int64_t rows, int64_t heads, int64_t kv_heads, int64_t dim, int64_t size, int64_t table_row,
    const int64_t *table, const int64_t *first, const int64_t *seen, const float *q, const float *keys,
    const float *values, float *o, int64_t threads)
{
    float scale = 1 / sqrtf((float)dim);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < rows * heads; i++) {
        int64_t r = i / heads, kv = i % heads / (heads / kv_heads), length = seen[r];
        int64_t *at = scratch(0, length * sizeof(int64_t));
        float *scores = scratch(1, length * sizeof(float)), *out = o + i * dim, most = -INFINITY, total = 0;
        for (int64_t t = 0; t < length; t++) {
            at[t] = table ? ((table[r * table_row + t / size] * kv_heads + kv) * size + t % size) * dim
                          : ((first[r] + t) * kv_heads + kv) * dim;
            scores[t] = sum_of(dim, q + i * dim, keys + at[t]) * scale;
            most = scores[t] > most ? scores[t] : most;
        }
        for (int64_t t = 0; t < length; t++)
            total += scores[t] = fast_exp(scores[t] - most);
        memset(out, 0, dim * sizeof(float));
        for (int64_t t = 0; t < length; t++) {
            float share = scores[t] / total;
            const float *v = values + at[t];
#pragma omp simd
            for (int64_t d = 0; d < dim; d++)
                out[d] += share * v[d];
        }
    }
}

/* Tables of RoPE, and its turn of the first 2 * half dimensions of each head, in place: as `rotate` of decode.c. */
void exact_rotary(int64_t rows, int64_t half, const int64_t *position, const float *frequencies, float *cosines,
    float *sines, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * half > 1 << 12)
    for (int64_t i = 0; i < rows * half; i++) {
        float angle = (float)position[i / half] * frequencies[i % half];
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
}

void exact_rotate(int64_t rows, int64_t heads, int64_t dim, int64_t half, const float *cosines, const float *sines,
    float *x, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * heads * dim > 1 << 14)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = 0; i < half; i++) {
                float *at = x + (r * heads + h) * dim + i, a = at[0], b = at[half];
                float c = cosines[r * half + i], s = sines[r * half + i];
                at[0] = a * c - b * s;
                at[half] = b * c + a * s;
            }
}
