#include "matmul.h"


void pack_rows(int64_t first, int64_t last, int64_t k, int64_t n, Matrix b, float *packed)
{
    for (int64_t j = 0; j < n; j += COLUMNS, packed += k * COLUMNS) {
        int64_t width = n - j < COLUMNS ? n - j : COLUMNS;
        const float *from = b.at + j * b.column;
        if (width < COLUMNS)
            memset(packed + first * COLUMNS, 0, (last - first) * COLUMNS * sizeof(float));
        if (b.column == 1 && width == COLUMNS)
            for (int64_t p = first; p < last; p++)
                memcpy(packed + p * COLUMNS, from + p * b.row, COLUMNS * sizeof(float));
        else
            for (int64_t i = 0; i < width; i++)
                for (int64_t p = first; p < last; p++)
                    packed[p * COLUMNS + i] = from[p * b.row + i * b.column];
    }
}

void pack(int64_t k, int64_t n, Matrix b, float *packed)
{
    for (int64_t p = 0; p < k; p += STRIP)
        pack_rows(p, p + STRIP < k ? p + STRIP : k, k, n, b, packed);
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
        HELD(left);
        HELD(right);
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

/* c [rows, n] (+)= a [rows, depth] b: rows of A that stay in the first cache beside a panel; b's panels are `stride`
 * apart. Tiles share the rows out evenly: one of few rows is slow, for it reads all of a panel too. */
static void times_panels(int64_t rows, int64_t n, int64_t depth, Matrix a, const float *b, int64_t stride, float *c,
    int64_t c_row, int add)
{
    float edge[ROWS * COLUMNS];
    int64_t tiles = (rows + ROWS - 1) / ROWS, least = rows / tiles, taller = rows % tiles;
    for (int64_t j = 0; j < n; j += COLUMNS, b += stride) {
        int64_t width = n - j < COLUMNS ? n - j : COLUMNS;
        for (int64_t i = 0, t = 0, height; i < rows; i += height, t++) {
            height = least + (t < taller);
            Matrix part = {a.at + i * a.row, a.row, a.column};
            float *to = c + i * c_row + j;
            if (width == COLUMNS) {
                any_tile(height, depth, part, b, to, c_row, add);
                continue;
            }
            for (int r = 0; r < height && add; r++)
                memcpy(edge + r * COLUMNS, to + r * c_row, width * sizeof(float));
            any_tile(height, depth, part, b, edge, COLUMNS, add);
            for (int r = 0; r < height; r++)
                memcpy(to + r * c_row, edge + r * COLUMNS, width * sizeof(float));
        }
    }
}

void times_packed(int64_t m, int64_t n, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add)
{
    for (int64_t i = 0; i < m && !k && !add; i++)
        memset(c + i * c_row, 0, n * sizeof(float));
    for (int64_t top = 0; top < m; top += TILES * ROWS)
        for (int64_t p = 0; p < k; p += DEPTH) {
            int64_t depth = k - p < DEPTH ? k - p : DEPTH, rows = m - top < TILES * ROWS ? m - top : TILES * ROWS;
            Matrix part = {a.at + top * a.row + p * a.column, a.row, a.column};
            times_panels(rows, n, depth, part, b + p * COLUMNS, k * COLUMNS, c + top * c_row, c_row, add || p);
        }
}
