// The stream kernel: a held tile of TILE positions stays, carried loops walk other positions in
// blocks, and what is carried stands transposed, [width][TILE]. All algebra comes from the printed
// class K (see templates/README.md): values, exponent, lifted terms, regions, finish.
//
// The reference of a row moves only when an exponent exceeds it by more than SLACK: a block is
// lifted against the reference it finds, its largest exponent is taken on the way, and in the rare
// case that it was too large the block is done again after the move. Once that has happened, the
// largest exponent is looked for beforehand, until a block does not move the reference.
#pragma once
#include "running.hpp"

namespace attnc {

template <class K>
struct Stream : Running<K>, Summaries<K> {
    using Base = Running<K>;
    using Grid = typename K::Grid;
    using Desk = typename Base::Desk;
    using Run = typename Base::Run;
    using Base::STATISTICS, Base::begin_block, Base::exceeded, Base::finish, Base::finite;
    using Base::join_statistics, Base::lay_out, Base::move_reference, Base::desk_bytes, Base::pack_held;
    using Summaries<K>::make_summaries;

    // ---- one block

    template <class Loop, bool MASKED>
    static void find_peak(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            Real peak = load(desk.peak + v * LANES);
            for (int r = run.at; r < run.at + run.count; r++) {
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                Base::template load_pair<Loop>(desk, r, v * LANES, product);
                peak = raise(peak, Loop::template exponent<MASKED>(grid, *desk.held, walked, HeldLanes{v * LANES, r}, product));
            }
            store(desk.peak + v * LANES, peak);
        }
    }

    template <class Loop, bool MASKED>
    static void lift(const Grid& grid, Desk& desk, const Run& run) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int v = run.v0; v < run.v1; v++) {
            const int lane = v * LANES;
            Real peak = load(desk.peak + lane), sums[STATISTICS];
            const Real reference = load(desk.reference + lane);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) sums[s] = load(desk.partial[s] + lane);
            const auto one = [&](int r, Real* weight) __attribute__((always_inline)) {
                Real product[Loop::PRODUCTS + Loop::RUNNING + 1];
                Base::template load_pair<Loop>(desk, r, lane, product);
                Loop::template lift<MASKED>(grid, *desk.held, walked, HeldLanes{lane, r}, reference, product, peak, weight, sums);
            };
            const int end = run.at + run.count;
            if constexpr (PAIRS) {
                int r = run.at;
                for (; r < end; r += 2) {
                    Real a[Loop::LAYERS + 1], b[Loop::LAYERS + 1];
                    one(r, a);
                    if (r + 1 < end) one(r + 1, b);
                    else ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++) b[t] = Real(0);
                    ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++)
                        store(desk.score[t] + r / 2 * TILE + lane, paired(a[t], b[t]));
                }
            } else {
                for (int r = run.at; r < end; r++) {
                    Real weight[Loop::LAYERS + 1];
                    one(r, weight);
                    ATTNC_UNROLL for (int t = 0; t < Loop::LAYERS; t++)
                        store(desk.score[t] + r * TILE + lane, weight[t]);
                }
            }
            store(desk.peak + lane, peak);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) store(desk.partial[s] + lane, sums[s]);
        }
    }

    template <class Loop>
    static void lift_runs(const Grid& grid, Desk& desk) {
        begin_block(desk);
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) lift<Loop, true>(grid, desk, desk.runs[k]);
            else lift<Loop, false>(grid, desk, desk.runs[k]);
        }
    }

    // Whether the reference of a row may have to move before the block is lifted.
    static bool unsettled(const Desk& desk) {
        bool unset = desk.moving;
        for (int l = 0; l < desk.vectors * LANES; l++) unset |= desk.limit[l] == -INFINITE;
        return unset;
    }
    // Looks for the largest exponents of the block, and moves the reference where they ask for it.
    template <class Loop>
    static void look_ahead(const Grid& grid, Desk& desk) {
        begin_block(desk);
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) find_peak<Loop, true>(grid, desk, desk.runs[k]);
            else find_peak<Loop, false>(grid, desk, desk.runs[k]);
        }
        desk.moving = exceeded(desk);
        if (desk.moving) move_reference(desk);
    }

    template <class Loop>
    static __attribute__((noinline)) void flush(const Grid& grid, Desk& desk) {
        if (!desk.run_count) return;
        if (desk.slabs)
            for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.product[p] = Base::slab(desk.slabs, desk.flushed, p);
        desk.flushed++;
        Base::template fill_walked<Loop>(grid, desk);
        for (bool again = false;; again = true) {
            Base::template multiply<Loop>(grid, desk);
            if constexpr (Loop::RUNNING > 0)
                if (!again) Base::template run_all<Loop>(grid, desk);
            if constexpr (Loop::EXPONENT)
                if (!again && unsettled(desk)) look_ahead<Loop>(grid, desk);
            lift_runs<Loop>(grid, desk);
            if (!Loop::EXPONENT || again || __builtin_expect(!exceeded(desk), 1)) break;
            desk.moving = true;
            move_reference(desk);
        }
        if constexpr (Loop::EXPONENT)
            for (int v = 0; v < desk.vectors; v++)
                store(desk.top + v * LANES, raise(load(desk.top + v * LANES), load(desk.peak + v * LANES)));
        join_statistics(desk);
        Base::template accumulate<Loop>(grid, desk);
        desk.run_count = desk.used = 0;
    }

    // ---- one held tile

    template <class Loop>
    static void walk(const Grid& grid, Desk& desk, int64_t first, int rows) {
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (!Loop::product_wanted[p]) return;
            pack_held(Loop::template left<p>(grid), first, rows, Loop::depth[p], desk.query[p], desk.line);
        });
        Base::template begin_running<Loop>(grid, desk, first, rows);
        Base::template visit<Loop>(grid, desk, first, rows, [&] { flush<Loop>(grid, desk); });
    }

    template <class... Loops>
    static void walk_all(Sequence<Loops...>, const Grid& grid, Desk& desk, int64_t first, int rows) {
        (walk<Loops>(grid, desk, first, rows), ...);
    }

    static bool idle(const Desk& desk, int rows) {
        for (int l = 0; l < rows; l++)
            if (!K::idle(*desk.held, l)) return false;
        return true;
    }

    // Whether the tile was walked: where all its rows are idle, it stays as it is.
    static __attribute__((noinline)) bool tile(const Grid& grid, Desk& desk, int64_t first, int rows) {
        const TileSession session;
        desk.vectors = (rows + LANES - 1) / LANES;
        for (int l = 0; l < TILE; l++)  // spare lanes repeat the last row
            K::fill(grid, *desk.held, l, first + (l < rows ? l : rows - 1));
        if (K::IDLES && idle(desk, rows)) return false;
        for (bool careful : {false, true}) {
            desk.careful = careful;
            desk.run_count = desk.used = 0;
            desk.flushed = 0;
            desk.fresh = true;
            desk.moving = false;
            for (int l = 0; l < TILE; l++) {
                desk.reference[l] = 0;
                desk.limit[l] = l < rows ? -INFINITE : INFINITE;
                desk.top[l] = -INFINITE;
                for (int s = 0; s < K::STATISTICS; s++) desk.statistic[s][l] = K::statistic_unit[s];
            }
            walk_all(typename K::Loops{}, grid, desk, first, rows);
            if (finite(desk)) break;
        }
        finish(grid, desk, first, rows);
        return true;
    }

    // ---- one call

    // What a call needs of the workspace.
    static int64_t bytes(const Call& call) {
        Arena arena{nullptr};
        typename K::Shared shared;
        make_summaries(call, shared, arena, true);
        return arena.used + 64 + call.threads * desk_bytes();
    }
    // Whether any tile was walked.
    static bool run(const Call& call, char* scratch) {
        const int64_t grids = K::grid_count(call);
        if (!K::WANTED || !grids) return false;
        int walked = 0;
        Arena common{scratch};
        typename K::Shared shared;
        make_summaries(call, shared, common, false);
        char* desks = scratch + round_up(common.used, 64);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), tiles = (rows + TILE - 1) / TILE, size = desk_bytes();
        parallel_tasks(Base::threads_worth(call, probe), grids * tiles, [&](int64_t worker, int64_t task) {
            Arena arena{desks + worker * size};
            Desk desk = lay_out(arena);
            Grid grid;
            K::enter(call, task / tiles, grid);
            grid.shared = &shared;
            const int64_t first = (tiles - 1 - task % tiles) * TILE;  // long causal rows first
            if (tile(grid, desk, first, int(rows - first < TILE ? rows - first : TILE)))
                __atomic_store_n(&walked, 1, __ATOMIC_RELAXED);
        });
        return walked;
    }
};

}  // namespace attnc
