/* What stands between matrix products, in loops that compilers turn into vector instructions. */
#pragma once
#include "matmul.h"

INLINE float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* exp to 1e-7 of its value, as 2^n times a polynomial; 0 where float32 has no normal number for it. */
INLINE float fast_exp(float x)
{
    float bounded = x < -87.3f ? -87.3f : x > 88.3f ? 88.3f : x;
    float shifted = bounded * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1 + r * (1 + r * (0.5f + r * (1.6666667e-1f + r * (4.1666668e-2f + r * (8.3333338e-3f
            + r * (1.3888889e-3f + r * 1.9841270e-4f))))));
    uint32_t bits;
    memcpy(&bits, &shifted, 4);
    return x < -87.3f ? 0 : p * from_bits((bits - 0x4B400000u + 127u) << 23);
}

INLINE float sigmoid(float x) { return 1 / (1 + fast_exp(-x)); }

INLINE float sum_of(int64_t n, const float *x, const float *y)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* weight * x / rms(x), in place or not. */
INLINE void rms_norm(int64_t n, const float *x, const float *weight, float eps, float *y)
{
    float scale = 1 / sqrtf(sum_of(n, x, x) / n + eps);
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = weight[i] * (x[i] * scale);
}

/* silu(gate) * up */
INLINE void swiglu(int64_t n, const float *gate, const float *up, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

/* The `count` likeliest of n experts, the first of equals first, and their shares of the softmax over these alone.
 * With a NaN among the logits the experts are still different ones below n, and all shares are NaN. */
INLINE void route(int64_t n, const float *logits, int64_t count, int64_t *experts, float *shares)
{
    int broken = 0;
    for (int64_t e = 0; e < n; e++)
        broken |= isnan(logits[e]);
    float total = broken ? NAN : 0;
    for (int64_t k = 0; k < count; k++) {
        int64_t best = -1;
        for (int64_t e = 0; e < n; e++) {
            int taken = 0;
            for (int64_t before = 0; before < k; before++)
                taken |= experts[before] == e;
            if (!taken && (best < 0 || logits[e] > logits[best]))
                best = e;
        }
        experts[k] = best;
        shares[k] = fast_exp(logits[best] - logits[experts[0]]);
        total += shares[k];
    }
    for (int64_t k = 0; k < count; k++)
        shares[k] /= total;
}

/* The order that sorts choices [n] by expert, first come first; ends[e]: where expert e's rows end. */
static void sort_by_expert(int64_t n, const int64_t *choice, int64_t experts, int64_t *order, int64_t *ends)
{
    memset(ends, 0, experts * sizeof *ends);
    for (int64_t i = 0; i < n; i++)
        ends[choice[i]]++;
    for (int64_t e = 0, start = 0; e < experts; e++) {
        int64_t count = ends[e];
        ends[e] = start;
        start += count;
    }
    for (int64_t i = 0; i < n; i++)
        order[ends[choice[i]]++] = i;
}
