/* Tokens drawn from rows of logits by keyed uniforms, and written down. */
#include "pointwise.h"

#define BLOCK 64

/* The position-th uniform in [0, 1) of a stream: splitmix64 (Steele et al. 2014). */
static double uniform(uint64_t key, uint64_t position)
{
    uint64_t z = key + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static int64_t greatest(int64_t n, const float *x)
{
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; i++)
        if (x[i] == most)
            return i;
    return n - 1;
}

/* The sum of p, and of each block of it. */
static double block_sums(int64_t n, const float *p, double *blocks)
{
    double total = 0;
    for (int64_t start = 0; start < n; start += BLOCK) {
        int64_t end = start + BLOCK < n ? start + BLOCK : n;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = start; i < end; i++)
            sum += p[i];
        total += blocks[start / BLOCK] = sum;
    }
    return total;
}

/* The first index at which the running sum of p passes `wanted`. */
static int64_t inverse_cdf(int64_t n, const float *p, const double *blocks, double wanted)
{
    double before = 0;
    int64_t start = 0, found = 0;
    for (; start + BLOCK < n && before + blocks[start / BLOCK] <= wanted; start += BLOCK)
        before += blocks[start / BLOCK];
    for (int64_t i = start; i < n; i++) {
        before += p[i];
        found = p[i] > 0 ? i : found; /* where rounding leaves nothing beyond, the last that can be drawn */
        if (before > wanted)
            break;
    }
    return found;
}

/* p = exp of what logits over a temperature lie below the greatest, its index `top`; their sum. */
static double weights(int64_t n, const float *x, int64_t top, float scale, float *p, double *blocks)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        p[i] = fast_exp((x[i] - x[top]) * scale);
    return block_sums(n, p, blocks);
}

/* Log-probabilities [rows] of given tokens, bit by bit those that `sample` gives them. */
void score(int64_t rows, int64_t n, const float *logits, const float *temperature, const int64_t *tokens,
    float *logprobs, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * n > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * n;
        int64_t top = greatest(n, x);
        float *p = scratch(0, n * sizeof(float)), scale = temperature[r] > 0 ? 1 / temperature[r] : 1;
        double total = weights(n, x, top, scale, p, scratch(1, (n / BLOCK + 1) * sizeof(double)));
        logprobs[r] = (float)((double)((x[tokens[r]] - x[top]) * scale) - log(total));
    }
}

/* Tokens and log-probabilities [rows] from softmax(logits / temperature); a temperature of 0 takes the likeliest. */
void sample(int64_t rows, int64_t n, const float *logits, const float *temperature, const int64_t *keys,
    const int64_t *positions, int64_t *tokens, float *logprobs, int64_t threads)
{
#pragma omp parallel for num_threads(threads) if (threads > 1 && rows * n > 1 << 14)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * n;
        int64_t top = greatest(n, x);
        float *p = scratch(0, n * sizeof(float)), scale = temperature[r] > 0 ? 1 / temperature[r] : 1;
        double *blocks = scratch(1, (n / BLOCK + 1) * sizeof(double)), total = weights(n, x, top, scale, p, blocks);
        int64_t drawn = inverse_cdf(n, p, blocks, uniform(keys[r], positions[r]) * total);
        tokens[r] = temperature[r] > 0 ? drawn : top;
        logprobs[r] = (float)((double)((x[tokens[r]] - x[top]) * scale) - log(total));
    }
}

/* What was drawn for consecutive slots into their rows; why a response ends: 0 not, 1 the first of its `stops`, 2 another
 * of them, 3 repetition, 4 length. `whole`: the log-probabilities by which repetition is judged. */
void record(int64_t rows, int64_t stops, int64_t capacity, const int64_t *drawn, const float *drawn_logprob,
    const float *whole, const int64_t *stop_ids, int64_t *token, int64_t *count, const int64_t *limit, int64_t *confident, int32_t *tokens,
    float *logprobs, float confidence, int64_t most_confident, int64_t *code, int64_t threads)
{
    (void)threads;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = r * capacity + count[r]++;
        tokens[at] = (int32_t)drawn[r];
        logprobs[at] = drawn_logprob[r];
        token[r] = drawn[r];
        confident[r] = whole[r] > confidence ? confident[r] + 1 : 0;
        code[r] = confident[r] >= most_confident ? 3 : count[r] >= limit[r] ? 4 : 0;
        for (int64_t i = stops - 1; i >= 0; i--)
            if (stop_ids[r * stops + i] == drawn[r])
                code[r] = i ? 2 : 1;
    }
}
