/* Products of any two matrices, and what the LM head needs beside them. */
#include "pointwise.h"

#define BLOCK 4096 /* of K and of N that are packed at a time: 64 MB */

/* c [m, n] (+)= a [m, k] b [k, n], the threads on rows of c. */
void matmul(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_column, const float *b,
    int64_t b_row, int64_t b_column, float *c, int64_t add, int64_t threads)
{
    float *packed = scratch(0, padded(n < BLOCK ? n : BLOCK) * (k < BLOCK ? k : BLOCK) * sizeof(float));
    int64_t share = shared_rows(m, threads);
#pragma omp parallel num_threads(threads) if (threads > 1 && m * n * k > 1 << 18)
    for (int64_t p = 0; !p || p < k; p += BLOCK)
        for (int64_t left = 0; left < n; left += BLOCK) {
            int64_t depth = k - p < BLOCK ? k - p : BLOCK, width = n - left < BLOCK ? n - left : BLOCK;
            const float *from = b + p * b_row + left * b_column;
#pragma omp for
            for (int64_t q = 0; q < depth; q += STRIP)
                pack_rows(q, q + STRIP < depth ? q + STRIP : depth, depth, width, (Matrix){from, b_row, b_column}, packed);
#pragma omp for
            for (int64_t i = 0; i < m; i += share)
                times_packed(m - i < share ? m - i : share, width, depth,
                    (Matrix){a + i * a_row + p * a_column, a_row, a_column}, packed, c + i * n + left, n, add || p);
        }
}

/* Of each row of logits / temperature: log-sum-exp, the target's log-probability, the entropy. */
void softmax_statistics(int64_t rows, int64_t n, const float *logits, const int64_t *targets, float temperature,
    float *lse, float *logprobs, float *entropy, int64_t threads)
{
    float scale = 1 / temperature;
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * n;
        float most = -INFINITY, total = 0, weighted = 0;
#pragma omp simd reduction(max : most)
        for (int64_t i = 0; i < n; i++)
            most = x[i] > most ? x[i] : most;
#pragma omp simd reduction(+ : total, weighted)
        for (int64_t i = 0; i < n; i++) {
            float above = (x[i] - most) * scale, e = fast_exp(above);
            total += e;
            weighted += e * above;
        }
        float rest = logf(total);
        lse[r] = most * scale + rest;
        logprobs[r] = (x[targets[r]] - most) * scale - rest;
        entropy[r] = rest - weighted / total;
    }
}

/* Logits to the loss's gradient by them, in place. */
void softmax_gradient(int64_t rows, int64_t n, float *logits, const int64_t *targets, float temperature,
    const float *lse, const float *entropy, const float *grad_logprobs, const float *grad_entropy, int64_t threads)
{
    float scale = 1 / temperature;
#pragma omp parallel for num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        float *x = logits + r * n, by_logprob = grad_logprobs[r], by_entropy = grad_entropy[r];
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float logp = x[i] * scale - lse[r];
            x[i] = -scale * fast_exp(logp) * (by_logprob + (logp + entropy[r]) * by_entropy);
        }
        x[targets[r]] += scale * by_logprob;
    }
}
