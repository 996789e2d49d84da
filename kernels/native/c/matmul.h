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
#define TILES 8             /* one below the other: their rows of A stay in the first cache beside a panel of B */
#define DEPTH 128           /* of K at a time: a panel of B stays in the first cache, and sums of sums round less */
#define STRIP 64            /* rows of B packed at a time: they stay in the first cache from panel to panel */
#define INLINE static inline __attribute__((always_inline))

/* Keeps a vector in its register, where a compiler would rather load it anew for each use. */
#if defined(__x86_64__)
#define HELD(vector) __asm__("" : "+v"(vector))
#else
#define HELD(vector)
#endif

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

/* B's rows from `first` to `last` into their places among panels of COLUMNS columns, each [k, COLUMNS], the last one
 * filled up with zeros. */
void pack_rows(int64_t first, int64_t last, int64_t k, int64_t n, Matrix b, float *packed);

/* All of them. */
void pack(int64_t k, int64_t n, Matrix b, float *packed);

/* c [m, n] (+)= a [m, k] b, with b packed over all of its k rows. */
void times_packed(int64_t m, int64_t n, int64_t k, Matrix a, const float *b, float *c, int64_t c_row, int add);

/* Rows of a product that one thread takes at a time. */
INLINE int64_t shared_rows(int64_t rows, int64_t threads)
{
    int64_t share = (rows + threads - 1) / threads, most = TILES * ROWS;
    return share < ROWS ? ROWS : share < most ? (share + ROWS - 1) / ROWS * ROWS : most;
}
