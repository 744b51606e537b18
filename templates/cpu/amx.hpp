// Tile registers of AMX: 16 rows of 16 units of 32 bits. A product adds to a tile of sums the rows of
// pairs of bfloat16 in one tile times the columns of pairs in another.
//
// Needs (level 5): amx-tile and amx-bf16, and the system's permission, which attnc/runtime asks for.
// Level 6 is the same code on tiles emulated in memory (amx_emulated.hpp), for machines without them.
#pragma once
#include "amx_emulated.hpp"

namespace attnc {

// Whether products go through tile registers.
constexpr bool TILED = ATTNC_ISA >= 5 && std::is_same_v<Element, bf16>;
constexpr int TILE_ROWS = 16;  // also the units of a row

#if ATTNC_ISA == 5
// The compiler is not told by its intrinsics that a tile is loaded from memory: hence the fences.
#define ATTNC_FENCE() __asm__ volatile("" ::: "memory")
#define ATTNC_TILE_LOAD(tile, base, stride) _tile_loadd(tile, base, stride)
#define ATTNC_TILE_STORE(tile, base, stride) _tile_stored(tile, base, stride)
#define ATTNC_TILE_ZERO(tile) _tile_zero(tile)
#define ATTNC_TILE_DOT(sums, rows, columns) _tile_dpbf16ps(sums, rows, columns)
#define ATTNC_TILE_CONFIGURE(shape) _tile_loadconfig(shape)
#define ATTNC_TILE_RELEASE() _tile_release()
#endif

#if ATTNC_ISA >= 5
// While it lives, this thread's tile registers are whole tiles.
struct TileSession {
    struct Shape {  // the 64 bytes that the instruction reads
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    };
    TileSession() {
        if constexpr (!TILED) return;
        alignas(64) static constexpr Shape WHOLE = {
            1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
        static_assert(sizeof WHOLE == 64, "the size that the instruction reads");
        ATTNC_FENCE();
        ATTNC_TILE_CONFIGURE(&WHOLE);
    }
    ~TileSession() {
        if constexpr (TILED) ATTNC_TILE_RELEASE();
    }
};

// One or two tiles of rows by one or two of columns. Registers: sums 0 .. 3, rows 4 and 5, columns
// 6 and 7.
template <bool ROWS, bool COLUMNS>
ATTNC_INLINE void tile_product(bool add, const char* rows, int64_t row, const char* columns,
                               int64_t column, int depth, char* out, int64_t by) {
    char* const below = out + TILE_ROWS * by;
    if (add) {
        ATTNC_TILE_LOAD(0, out, by);
        if constexpr (COLUMNS) ATTNC_TILE_LOAD(1, out + 64, by);
        if constexpr (ROWS) ATTNC_TILE_LOAD(2, below, by);
        if constexpr (ROWS && COLUMNS) ATTNC_TILE_LOAD(3, below + 64, by);
    } else {
        ATTNC_TILE_ZERO(0);
        if constexpr (COLUMNS) ATTNC_TILE_ZERO(1);
        if constexpr (ROWS) ATTNC_TILE_ZERO(2);
        if constexpr (ROWS && COLUMNS) ATTNC_TILE_ZERO(3);
    }
    for (int d = 0; d < depth; d += TILE_ROWS, rows += 64, columns += TILE_ROWS * column) {
        ATTNC_TILE_LOAD(6, columns, column);
        ATTNC_TILE_LOAD(4, rows, row);
        ATTNC_TILE_DOT(0, 4, 6);
        if constexpr (COLUMNS) {
            ATTNC_TILE_LOAD(7, columns + 64, column);
            ATTNC_TILE_DOT(1, 4, 7);
        }
        if constexpr (ROWS) {
            ATTNC_TILE_LOAD(5, rows + TILE_ROWS * row, row);
            ATTNC_TILE_DOT(2, 5, 6);
            if constexpr (COLUMNS) ATTNC_TILE_DOT(3, 5, 7);
        }
    }
    ATTNC_TILE_STORE(0, out, by);
    if constexpr (COLUMNS) ATTNC_TILE_STORE(1, out + 64, by);
    if constexpr (ROWS) ATTNC_TILE_STORE(2, below, by);
    if constexpr (ROWS && COLUMNS) ATTNC_TILE_STORE(3, below + 64, by);
}

// out[i][v] (+)= sum over d < depth of walked[i][d] * held[d][v], in units, for whole tiles: rows and
// depth are multiples of TILE_ROWS, v counts vectors of as many columns. Strides are in bytes.
__attribute__((noinline)) inline void tile_products(bool add, int first, int last,
                                                    const char* walked, int64_t row,
                                                    const char* held, int64_t column, int depth,
                                                    char* out, int64_t by, int rows) {
    ATTNC_FENCE();
    for (int v = first; v < last; v += 2)
        for (int i = 0; i < rows; i += 2 * TILE_ROWS) {
            const bool wide = v + 1 < last, tall = i + TILE_ROWS < rows;
            const char *a = walked + i * row, *b = held + v * 64;
            char* c = out + i * by + v * 64;
            if (wide && tall) tile_product<true, true>(add, a, row, b, column, depth, c, by);
            else if (wide) tile_product<false, true>(add, a, row, b, column, depth, c, by);
            else if (tall) tile_product<true, false>(add, a, row, b, column, depth, c, by);
            else tile_product<false, false>(add, a, row, b, column, depth, c, by);
        }
    ATTNC_FENCE();
}
#else
struct TileSession {
    TileSession() {}
    ~TileSession() {}
};
#endif

}  // namespace attnc
