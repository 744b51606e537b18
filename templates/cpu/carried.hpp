// What a held tile carries through its loops, of a stream kernel with the printed class K: the desk
// that a worker keeps it on, the reference and what is relative to it, and the end of the tile.
#pragma once
#include "walks.hpp"

namespace attnc {

constexpr Acc SLACK = 8;

template <class K>
struct Carried {
    using Grid = typename K::Grid;
    using Held = typename K::template Held<TILE>;
    static constexpr int STATISTICS = K::STATISTICS > 0 ? K::STATISTICS : 1;
    static constexpr int TILES = K::TILES > 0 ? K::TILES : 1;

    struct Run {  // walked rows first .. first + count, lanes of vectors v0 .. v1, block rows from at
        int64_t first;
        int count, at, v0, v1;
        bool masked;
    };

    // What one worker keeps while it does a tile.
    struct Desk {
        Held* held;
        typename K::Finish* finish;
        Acc* reference;  // in base 2
        Acc* limit;      // exponents above it move the reference; -inf: there is none yet
        Acc* top;        // largest exponent so far
        Acc* peak;       // of the block
        Acc* factor;
        Acc* statistic[STATISTICS];
        Acc* partial[STATISTICS];  // of the block
        Acc* tile[TILES];
        Acc* query[K::PRODUCTS_MOST];  // held operands, transposed
        Acc* score[K::LAYERS_MOST];    // products, then weights in their place
        Acc* product[K::PRODUCTS_MOST];  // where those of the block are: there, or in a slab
        Acc* slabs;       // of a tile's blocks, kept for a kernel that follows; null: none does
        int64_t flushed;  // blocks of the tile
        Acc* along[K::RUNNING_MOST + 1];    // values that run along the walk, for each pair of the block
        Acc* running[K::RUNNING_MOST + 1];  // the same after the last pair met; what is left ahead
        Acc* beneath[K::RUNNING_MOST + 1];  // what a sum is more than one number holds
        Acc* portion[K::RUNNING_MOST + 1];  // of the block
        Acc* staged;                   // an operand of a block
        Acc* line;                     // rows on their way in and out
        void* walked;
        Run runs[BLOCK / 2 + 2];
        int run_count, used, vectors;
        bool fresh;   // nothing in the tiles yet
        bool careful; // leave out masked pairs one by one: an operand is not finite
        bool moving;  // the last block moved the reference: look for the next peak beforehand
    };

    static constexpr int widest() {
        int most = 1;
        for (int w : K::widths) most = w > most ? w : most;
        return most;
    }
    static Desk lay_out(Arena& arena) {
        Desk desk;
        desk.held = arena.template take<Held>(1);
        desk.finish = arena.template take<typename K::Finish>(1);
        for (Acc** row : {&desk.reference, &desk.limit, &desk.top, &desk.peak, &desk.factor})
            *row = arena.template take<Acc>(TILE);
        for (int s = 0; s < K::STATISTICS; s++) {
            desk.statistic[s] = arena.template take<Acc>(TILE);
            desk.partial[s] = arena.template take<Acc>(TILE);
        }
        for (int t = 0; t < K::TILES; t++)
            desk.tile[t] = arena.template take<Acc>(int64_t(K::tile_width[t]) * TILE);
        for (int p = 0; p < K::PRODUCTS_MOST; p++)
            desk.query[p] = arena.template take<Acc>(int64_t(widest() + 1) * TILE);
        for (int p = 0; p < K::LAYERS_MOST; p++)
            desk.score[p] = arena.template take<Acc>(int64_t(BLOCK) * TILE);
        for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.product[p] = desk.score[p];
        desk.slabs = nullptr;
        for (int n = 0; n < K::RUNNING_MOST; n++) {
            desk.along[n] = arena.template take<Acc>(int64_t(BLOCK) * TILE);
            for (Acc** row : {&desk.running[n], &desk.beneath[n], &desk.portion[n]}) *row = arena.template take<Acc>(TILE);
        }
        desk.staged = arena.template take<Acc>(int64_t(BLOCK) * (widest() + 1));
        desk.line = arena.template take<Acc>(int64_t(TILE) * (round_up(widest(), LANES) + LANES));
        desk.walked = arena.template take<typename K::WalkedMost>(1);
        return desk;
    }
    // A product of one block of a tile, [BLOCK][TILE].
    static Acc* slab(Acc* slabs, int64_t block, int product) {
        return slabs + (block * K::PRODUCTS_MOST + product) * BLOCK * TILE;
    }
    // Threads that a call is worth, by its products (as if nothing were masked).
    static int64_t threads_worth(const Call& call, const Grid& probe) {
        const double pairs = double(K::count(probe)) * double(positions_walked(typename K::Loops{}, probe));
        return threads_for(call.threads, double(K::grid_count(call)) * pairs * 2 * widest());
    }
    static int64_t desk_bytes() {
        Arena arena{nullptr};
        lay_out(arena);
        return round_up(arena.used, 4096) + 64;
    }

    // ---- the reference and what is kept relative to it

    // Multiplies by exp2(old - new reference) what is kept relative to it.
    static void rescale(Desk& desk) {
        for (int s = 0; s < K::STATISTICS; s++)
            if (K::statistic_rescaled[s])
                for (int v = 0; v < desk.vectors; v++) {
                    Acc* at = desk.statistic[s] + v * LANES;
                    store(at, load(at) * load(desk.factor + v * LANES));
                }
        if (desk.fresh) return;
        for (int t = 0; t < K::TILES; t++) {
            if (!K::tile_rescaled[t]) continue;
            for (int v = 0; v < desk.vectors; v++) {
                const Real factor = load(desk.factor + v * LANES);
                for (int c = 0; c < K::tile_width[t]; c++) {
                    Acc* at = desk.tile[t] + c * TILE + v * LANES;
                    store(at, load(at) * factor);
                }
            }
        }
    }
    static bool exceeded(const Desk& desk) {
        Truth any(false);
        for (int v = 0; v < desk.vectors; v++)
            any = any | (load(desk.peak + v * LANES) > load(desk.limit + v * LANES));
        return any.any();
    }
    static void move_reference(Desk& desk) {
        for (int v = 0; v < desk.vectors; v++) {
            const int lane = v * LANES;
            const Real peak = load(desk.peak + lane), limit = load(desk.limit + lane);
            const Real old = load(desk.reference + lane);
            const Truth moves = peak > limit, first = limit == Real(-INFINITE);
            const Real next = select(moves, peak, old);
            store(desk.factor + lane, select(moves & !first, exp2(old - next), Real(1)));
            store(desk.reference + lane, next);
            store(desk.limit + lane, select(moves, next + Real(SLACK), limit));
        }
        rescale(desk);
    }

    static void begin_block(Desk& desk) {
        for (int l = 0; l < TILE; l++) desk.peak[l] = -INFINITE;
        for (int s = 0; s < K::STATISTICS; s++)
            for (int l = 0; l < TILE; l++) desk.partial[s][l] = K::statistic_unit[s];
    }
    static void join_statistics(Desk& desk) {  // with those of the block
        for (int s = 0; s < K::STATISTICS; s++)
            for (int v = 0; v < desk.vectors; v++) {
                Acc* at = desk.statistic[s] + v * LANES;
                store(at, K::combine(s, load(at), load(desk.partial[s] + v * LANES)));
            }
    }

    static bool finite(const Desk& desk) {
        Real sum(Acc(0));
        if (!desk.fresh)
            for (int t = 0; t < K::TILES; t++)
                for (int c = 0; c < K::tile_width[t]; c++)
                    for (int v = 0; v < desk.vectors; v++) sum = fused(load(desk.tile[t] + c * TILE + v * LANES), Real(0), sum);
        return !(sum != sum).any();
    }

    // ---- the end of a tile

    static void settle(Desk& desk) {  // the reference becomes the largest exponent itself
        for (int v = 0; v < desk.vectors; v++) {
            const int lane = v * LANES;
            const Real limit = load(desk.limit + lane), old = load(desk.reference + lane), top = load(desk.top + lane);
            const Truth met = limit > Real(-INFINITE);
            store(desk.factor + lane, select(met & (top != old), exp2(old - top), Real(1)));
            store(desk.reference + lane, top);
        }
        rescale(desk);
    }

    static void finish(const Grid& grid, Desk& desk, int64_t first, int rows) {
        if (desk.fresh) {
            for (int t = 0; t < K::TILES; t++)
                std::memset(desk.tile[t], 0, sizeof(Acc) * size_t(K::tile_width[t]) * TILE);
            desk.fresh = false;
        }
        if constexpr (K::REFERENCE) settle(desk);
        for (int v = 0; v < desk.vectors; v++) {
            const HeldLanes at{v * LANES, 0};
            Real statistic[STATISTICS];
            for (int s = 0; s < K::STATISTICS; s++) statistic[s] = load(desk.statistic[s] + v * LANES);
            K::end(grid, *desk.held, at, load(desk.reference + v * LANES), statistic, desk.tile, *desk.finish);
        }
        for_each<K::STORES>([&](auto place) {
            constexpr int s = decltype(place)::value;
            constexpr int width = K::store_width[s];
            const auto out = K::template target<s>(grid);
            if (!out.data) return;  // not asked for
            for (int c0 = 0; c0 < width; c0 += LANES) {
                const int wide = width - c0 < LANES ? width - c0 : LANES;
                Acc* lines = desk.line;
                for (int c = 0; c < wide; c++)
                    for (int v = 0; v < desk.vectors; v++) {
                        Real tile[TILES];
                        ATTNC_UNROLL for (int t = 0; t < K::TILES; t++)
                            tile[t] = c0 + c < K::tile_width[t] ? load(desk.tile[t] + (c0 + c) * TILE + v * LANES) : Real(0);
                        store(lines + c * TILE + v * LANES, K::template store_at<s>(grid, *desk.held, *desk.finish, HeldLanes{v * LANES, 0}, tile, c0 + c));
                    }
                Acc* turned = desk.line + LANES * TILE;
                transpose(lines, TILE, turned, LANES, LANES, desk.vectors * LANES);
                using T = std::remove_pointer_t<decltype(out.data)>;
                for (int r = 0; r < rows; r++) {
                    T* to = const_cast<std::remove_const_t<T>*>(out.row(first + r)) + c0 * out.step;
                    write_row(const_cast<std::remove_const_t<T>*>(to), out.step, turned + r * LANES, wide);
                }
            }
        });
    }
    template <class T>
    static ATTNC_INLINE void write_row(T* to, int64_t step, const Acc* from, int wide) {
        if (step == 1) return store_elements(to, load(from), wide);
        for (int c = 0; c < wide; c++) to[c * step] = narrow<T>(from[c]);
    }

};

}  // namespace attnc
