/* Matrix products in float32. Every element of a result is summed in one order, along K from its beginning, whatever
 * rows are computed beside it: a response must not change with its neighbours. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
/* Rows of a tile: as many as leave registers for two vectors of B and one of A. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define ROWS 12
#else
#define ROWS 6
#endif
#define LANES (BYTES / 4)
#define COLUMNS (2 * LANES) /* of a tile, and of a panel of packed B */
#define DEPTH 128           /* of K at a time: a panel of B stays in the first cache, and sums of sums round less */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(BYTES), aligned(4), may_alias));

/* A matrix whose element (i, j) lies at at[i * row + j * column]. */
typedef struct {
    const float *at;
    int64_t row, column;
} Matrix;

/* Memory of this thread, kept between calls; one piece for each `slot`. */
static void *scratch(int slot, size_t bytes)
{
    static _Thread_local struct { void *at; size_t bytes; } held[8];
    if (held[slot].bytes < bytes) {
        free(held[slot].at);
        bytes = (bytes + 4095) & ~(size_t)4095;
        held[slot].at = aligned_alloc(4096, bytes);
        held[slot].bytes = bytes;
    }
    return held[slot].at;
}

INLINE int64_t padded(int64_t n) { return (n + COLUMNS - 1) / COLUMNS * COLUMNS; }

/* B [k, n] as panels of COLUMNS columns, each [k, COLUMNS], the last one filled up with zeros. */
static inline void pack(int64_t k, int64_t n, Matrix b, float *packed)
{
    for (int64_t j = 0; j < n; j += COLUMNS, packed += k * COLUMNS) {
        int64_t width = n - j < COLUMNS ? n - j : COLUMNS;
        if (width < COLUMNS)
            memset(packed, 0, k * COLUMNS * sizeof(float));
        const float *from = b.at + j * b.column;
        if (b.column == 1)
            for (int64_t p = 0; p < k; p++)
                memcpy(packed + p * COLUMNS, from + p * b.row, width * sizeof(float));
        else
            for (int64_t i = 0; i < width; i++)
                for (int64_t p = 0; p < k; p++)
                    packed[p * COLUMNS + i] = from[p * b.row + i * b.column];
    }
}

/* c [rows, COLUMNS] (+)= a [rows, k] b, with b one packed panel; `rows` is a constant where this is called. */
INLINE void tile(int rows, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add)
{
    vec sum[ROWS][2];
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        sum[i][0] = (vec){0};
        sum[i][1] = (vec){0};
        __builtin_prefetch(c + i * c_row, 1); /* there when the sums are */
        __builtin_prefetch(c + i * c_row + COLUMNS - 1, 1);
    }
    for (int64_t p = 0; p < k; p++) {
        vec left = *(const vec *)(b + p * COLUMNS), right = *(const vec *)(b + p * COLUMNS + LANES);
        const float *x = a.at + p * a.column;
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            float one = x[i * a.row];
            sum[i][0] += one * left;
            sum[i][1] += one * right;
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        vec *left = (vec *)(c + i * c_row), *right = (vec *)(c + i * c_row + LANES);
        if (add) {
            sum[i][0] += *left;
            sum[i][1] += *right;
        }
        *left = sum[i][0];
        *right = sum[i][1];
    }
}

static void any_tile(int rows, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add)
{
#define CASE(n) case n: tile(n, k, a, b, c, c_row, add); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if ROWS > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
#undef CASE
}

/* c [m, n] (+)= a [m, k] b, with b packed over all of its k rows. */
static void times_packed(int64_t m, int64_t n, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add)
{
    float edge[ROWS * COLUMNS];
    for (int64_t i = 0; i < m && !k && !add; i++)
        memset(c + i * c_row, 0, n * sizeof(float));
    for (int64_t top = 0; top < m; top += 8 * ROWS) /* rows of A that stay in the first cache beside a panel */
        for (int64_t p = 0; p < k; p += DEPTH) {
            int64_t depth = k - p < DEPTH ? k - p : DEPTH, end = top + 8 * ROWS < m ? top + 8 * ROWS : m;
            for (int64_t j = 0; j < n; j += COLUMNS) {
                const float *panel = b + j * k + p * COLUMNS;
                int64_t width = n - j < COLUMNS ? n - j : COLUMNS;
                for (int64_t i = top; i < end; i += ROWS) {
                    int rows = end - i < ROWS ? end - i : ROWS, more = add || p;
                    Matrix part = {a.at + i * a.row + p * a.column, a.row, a.column};
                    float *to = c + i * c_row + j;
                    if (width == COLUMNS) {
                        any_tile(rows, depth, part, panel, to, c_row, more);
                        continue;
                    }
                    for (int r = 0; r < rows && more; r++)
                        memcpy(edge + r * COLUMNS, to + r * c_row, width * sizeof(float));
                    any_tile(rows, depth, part, panel, edge, COLUMNS, more);
                    for (int r = 0; r < rows; r++)
                        memcpy(to + r * c_row, edge + r * COLUMNS, width * sizeof(float));
                }
            }
        }
}

/* Rows of a product that one thread takes at a time. */
INLINE int64_t shared_rows(int64_t rows, int64_t threads)
{
    int64_t share = (rows + threads - 1) / threads, most = 8 * ROWS;
    return share < ROWS ? ROWS : share < most ? (share + ROWS - 1) / ROWS * ROWS : most;
}
