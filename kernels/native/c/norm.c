/* RMSNorm, alone, under a sigmoid gate, or as it stands in the residual stream; and its gradients. */
#include "pointwise.h"

INLINE void add_to(int64_t n, const float *x, float *sum)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        sum[i] += x[i];
}

/* y = weight * x / rms(x), times sigmoid(gate) where there is a gate; scale [rows] = 1 / rms(x). */
void norm_forward(int64_t rows, int64_t n, const float *x, const float *weight, const float *gate, float eps, float *y,
    float *scale, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * n > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * n;
        float *to = y + r * n, s = 1 / sqrtf(sum_of(n, from, from) / n + eps);
        scale[r] = s;
        if (gate) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] = sigmoid(gate[r * n + i]) * (weight[i] * (from[i] * s));
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] = weight[i] * (from[i] * s);
        }
    }
}

/* Gradients by x, by the gate and by the weight, whose parts by thread come to lie in parts [threads, n]. */
void norm_backward(int64_t rows, int64_t n, const float *x, const float *weight, const float *gate, const float *scale,
    const float *dy, float *dx, float *dgate, float *parts, int64_t threads)
{
    int64_t share = (rows + threads - 1) / threads;
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < threads; t++) {
        float *dweight = parts + t * n, *dnormed = scratch(0, n * sizeof(float));
        memset(dweight, 0, n * sizeof(float));
        for (int64_t r = t * share; r < rows && r < (t + 1) * share; r++) {
            const float *from = x + r * n, *by = dy + r * n;
            float s = scale[r], along = 0;
            if (gate) {
#pragma omp simd
                for (int64_t i = 0; i < n; i++) {
                    float open = sigmoid(gate[r * n + i]), passed = by[i] * open;
                    dgate[r * n + i] = passed * (1 - open) * weight[i] * from[i] * s;
                    dweight[i] += passed * from[i] * s;
                    dnormed[i] = passed * weight[i];
                }
            } else {
#pragma omp simd
                for (int64_t i = 0; i < n; i++) {
                    dweight[i] += by[i] * from[i] * s;
                    dnormed[i] = by[i] * weight[i];
                }
            }
            along = sum_of(n, dnormed, from) * s * s / n;
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dx[r * n + i] = s * (dnormed[i] - from[i] * along);
        }
    }
}

/* x = alpha * residual + beta * update, or the residual itself where there is no update; y = weight * x / rms(x). */
void stream_norm_forward(int64_t rows, int64_t n, const float *residual, const float *update, float alpha, float beta,
    const float *weight, float eps, float *x, float *y, float *scale, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * n > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = residual + r * n;
        float *sum = x + r * n, *to = y + r * n;
        if (update) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                sum[i] = alpha * from[i] + beta * update[r * n + i];
            from = sum;
        }
        float s = scale[r] = 1 / sqrtf(sum_of(n, from, from) / n + eps);
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            to[i] = weight[i] * (from[i] * s);
    }
}

/* Gradients by residual, update (null without one) and weight, from up to three by y (dy; more and most, or null) and
 * one by x, or null. */
void stream_norm_backward(int64_t rows, int64_t n, const float *x, const float *weight, const float *scale,
    const float *dy, const float *more, const float *most, const float *by_x, float alpha, float beta,
    float *dresidual, float *dupdate, float *parts, int64_t threads)
{
    int64_t share = (rows + threads - 1) / threads;
#pragma omp parallel for num_threads(threads)
    for (int64_t t = 0; t < threads; t++) {
        float *dweight = parts + t * n, *by = scratch(0, n * sizeof(float));
        memset(dweight, 0, n * sizeof(float));
        for (int64_t r = t * share; r < rows && r < (t + 1) * share; r++) {
            int64_t at = r * n;
            const float *from = x + at, *others[2] = {more, most};
            float s = scale[r];
            memcpy(by, dy + at, n * sizeof(float));
            for (int k = 0; k < 2; k++)
                if (others[k])
                    add_to(n, others[k] + at, by);
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                dweight[i] += by[i] * from[i] * s;
                by[i] *= weight[i];
            }
            float along = sum_of(n, by, from) * s * s / n;
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                by[i] = s * (by[i] - from[i] * along);
            if (by_x)
                add_to(n, by_x + at, by);
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dresidual[at + i] = alpha * by[i];
            if (!dupdate)
                continue;
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                dupdate[at + i] = beta * by[i];
        }
    }
}
