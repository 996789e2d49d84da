#include "matmul.h"

void pack(int64_t k, int64_t n, Matrix b, float *packed)
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

void times_packed(int64_t m, int64_t n, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add)
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
