// The tile instructions of AMX in plain C++, one function each, for level 6: so that the code above
// them runs, and is compared with the oracle, where the processor has no tiles. Slow; never chosen
// unless asked for by name.
//
// As the manual of the instruction has it: sums of the even and of the odd products in float32, fused
// and rounded to nearest, then both added, then added to the tile; subnormal numbers are 0, before
// and after. A tile used without a configuration is NaN (the processor would stop the program).
#pragma once
#include "call.hpp"

#if ATTNC_ISA == 6
namespace attnc {

struct EmulatedTiles {
    uint32_t unit[8][16][16];
    bool ready;
};
inline thread_local EmulatedTiles emulated_tiles;

inline float without_subnormals(float x) {
    return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}
inline void emulated_configure(const void* shape) {
    const auto* bytes = (const uint8_t*)shape;
    bool whole = bytes[0] == 1;
    for (int tile = 0; tile < 8; tile++)
        whole &= bytes[16 + 2 * tile] == 64 && bytes[17 + 2 * tile] == 0 && bytes[48 + tile] == 16;
    std::memset(emulated_tiles.unit, 0, sizeof emulated_tiles.unit);
    emulated_tiles.ready = whole;
}
inline void emulated_release() { emulated_tiles.ready = false; }
inline void emulated_zero(int tile) {
    std::memset(emulated_tiles.unit[tile], emulated_tiles.ready ? 0 : 0xff, 1024);
}
inline void emulated_load(int tile, const void* base, int64_t stride) {
    if (!emulated_tiles.ready) return emulated_zero(tile);
    for (int r = 0; r < 16; r++)
        std::memcpy(emulated_tiles.unit[tile][r], (const char*)base + r * stride, 64);
}
inline void emulated_store(int tile, void* base, int64_t stride) {
    if (!emulated_tiles.ready) emulated_zero(tile);
    for (int r = 0; r < 16; r++)
        std::memcpy((char*)base + r * stride, emulated_tiles.unit[tile][r], 64);
}
inline void emulated_dot(int sums, int rows, int columns) {
    auto& tiles = emulated_tiles.unit;
    for (int m = 0; m < 16; m++) {
        float part[2][16] = {};
        for (int k = 0; k < 16; k++)
            for (int odd = 0; odd < 2; odd++) {
                const auto number = [&](uint32_t pair) {
                    return without_subnormals(bits_to_float(odd ? pair & 0xffff0000 : pair << 16));
                };
                const float a = number(tiles[rows][m][k]);
                for (int n = 0; n < 16; n++)
                    part[odd][n] = without_subnormals(std::fma(a, number(tiles[columns][k][n]), part[odd][n]));
            }
        for (int n = 0; n < 16; n++) {
            const float both = without_subnormals(part[0][n] + part[1][n]);
            const float before = without_subnormals(bits_to_float(tiles[sums][m][n]));
            tiles[sums][m][n] = float_to_bits(without_subnormals(before + both));
        }
    }
}

}  // namespace attnc

#define ATTNC_FENCE()
#define ATTNC_TILE_LOAD(tile, base, stride) emulated_load(tile, base, stride)
#define ATTNC_TILE_STORE(tile, base, stride) emulated_store(tile, base, stride)
#define ATTNC_TILE_ZERO(tile) emulated_zero(tile)
#define ATTNC_TILE_DOT(sums, rows, columns) emulated_dot(sums, rows, columns)
#define ATTNC_TILE_CONFIGURE(shape) emulated_configure(shape)
#define ATTNC_TILE_RELEASE() emulated_release()
#endif
