// The sweep: a stream kernel without a reference, whose loops may also add to the rows that they walk
// (deposits) and to tables (scatters). Lanes are held positions, as in stream.hpp, whose products,
// regions and finish it uses. All algebra comes from the printed class K.
//
//   products    scores[p][walked][TILE]      walked rows broadcast, held rows transposed
//   lift        layers[l][walked][TILE]      the terms of a pair, in place of the scores
//   accumulate  tile[width][TILE]     += operand of walked rows, layer        stays in the tile
//   deposit     panel[walked][width]  += layer, operand of held rows          lanes are columns
//   scatter     panel[place][width]   += layer * operand
//   put         plane[held][walked]    = layer
//
// Panels belong to one grid instance: its held tiles run in order on one worker, and the panel is
// written out at the end. So no sum depends on the number of threads. Shares (`split`) of the held
// tiles are instances of their own; how many there are depends on the shape alone. Kernels without
// panels hand out tiles instead.
//
// What is masked has weight -0 and is part of dense products, unless an operand is not finite: then
// the block leaves out masked pairs one by one (0 * NaN would leak).
#pragma once
#include "ahead.hpp"
#include "panels.hpp"

namespace attnc {

// How many shares the held tiles of an instance are cut into where there are few instances.
inline int64_t share_count(int64_t instances, int64_t rows) {
    constexpr int64_t ENOUGH = 8, FEWEST = 4;  // tasks of a call; tiles of a share
    const int64_t tiles = (rows + TILE - 1) / TILE;
    const int64_t most = tiles < 2 * FEWEST && instances == 1 ? tiles / 2 : tiles / FEWEST;
    const int64_t wanted = instances > 0 ? (ENOUGH + instances - 1) / instances : 1;
    return wanted < most ? wanted : most > 1 ? most : 1;
}

template <class K, class First = Alone>
struct Sweep : Panels<K> {
    using Base = Panels<K>;
    using Grid = typename K::Grid;
    using Run = typename Base::Run;
    using Base::PANELS, Base::clear_panels, Base::place_panels, Base::write_panels;
    struct Desk : Base::Desk {
        typename First::Desk ahead;
    };

    // ---- one block

    // The terms of the pairs of one vector of lanes; LIMITED: some lanes do not count.
    template <class Loop, bool MASKED, bool LIMITED>
    static void lift_lanes(Desk& desk, const Run& run, int lane) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        Real peak, sums[Base::STATISTICS];
        const Truth inside = !LIMITED ? Truth(true) : iota(lane) < Integer(desk.seen);
        ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) sums[s] = load(desk.partial[s] + lane);
        const auto one = [&](int r, Real* weight) __attribute__((always_inline)) {
            Real product[Loop::PRODUCTS + Loop::RUNNING + 1], next[Base::STATISTICS];
            Integer place[Loop::SCATTERS + 1];
            Base::template load_pair<Loop>(desk, r, lane, product);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) next[s] = sums[s];
            const HeldLanes at{lane, r};
            Loop::template lift<MASKED>(desk.grid, *desk.held, walked, at, Real(0), product, peak, weight, next);
            Loop::template places<MASKED>(desk.grid, *desk.held, walked, at, product, place);
            ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) sums[s] = LIMITED ? select(inside, next[s], sums[s]) : next[s];
            if (LIMITED) ATTNC_UNROLL for (int l = 0; l < Loop::LAYERS; l++) weight[l] = select(inside, weight[l], Real(-Acc(0)));
            ATTNC_UNROLL for (int n = 0; n < Loop::SCATTERS; n++)
                if (K::panel_wanted[K::DEPOSITS + Loop::FIRST_SCATTER + n])
                    keep_lanes(desk.place[Loop::FIRST_SCATTER + n] + r * TILE + lane, LIMITED ? select(inside, place[n], Integer(-1)) : place[n]);
        };
        const int end = run.at + run.count;
        if constexpr (PAIRS) {
            for (int r = run.at; r < end; r += 2) {
                Real a[Loop::LAYERS + 1], b[Loop::LAYERS + 1];
                one(r, a);
                if (r + 1 < end) one(r + 1, b);
                else ATTNC_UNROLL for (int l = 0; l < Loop::LAYERS; l++) b[l] = Real(-Acc(0));
                ATTNC_UNROLL for (int l = 0; l < Loop::LAYERS; l++) {
                    if (Loop::layer_uses[l] & ADDED) store(desk.score[l] + r / 2 * TILE + lane, paired(a[l], b[l]));
                    if (Loop::layer_uses[l] & DEPOSITED) {
                        store_elements((bf16*)desk.weight[l] + r * TILE + lane, a[l]);
                        store_elements((bf16*)desk.weight[l] + (r + 1) * TILE + lane, b[l]);
                    }
                    if (Loop::layer_uses[l] & PLAIN) {
                        store(desk.plain[l] + r * TILE + lane, a[l]);
                        store(desk.plain[l] + (r + 1) * TILE + lane, b[l]);
                    }
                }
            }
        } else {
            for (int r = run.at; r < end; r++) {
                Real weight[Loop::LAYERS + 1];
                one(r, weight);
                ATTNC_UNROLL for (int l = 0; l < Loop::LAYERS; l++)
                    if (Loop::layer_uses[l]) store(desk.score[l] + r * TILE + lane, weight[l]);
            }
        }
        ATTNC_UNROLL for (int s = 0; s < K::STATISTICS; s++) store(desk.partial[s] + lane, sums[s]);
    }
    template <class Loop, bool MASKED>
    static void lift(Desk& desk, const Run& run) {
        for (int v = run.v0; v < run.v1; v++) {
            if (v * LANES + LANES <= desk.seen) lift_lanes<Loop, MASKED, false>(desk, run, v * LANES);
            else lift_lanes<Loop, MASKED, true>(desk, run, v * LANES);
        }
    }

    // Whether masked pairs of the block may take part in products with operands of walked rows.
    template <class Loop>
    static bool walked_finite(const Desk& desk) {
        bool finite = true;
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value;
            if constexpr (Loop::term_wanted[t] && !Loop::pairwise[t]) {
                const auto rows = Loop::template operand<t>(desk.grid);
                for (int k = 0; k < desk.run_count; k++)
                    if (desk.runs[k].masked || Loop::HIDDEN)
                        finite = finite && all_finite(rows, desk.runs[k].first, desk.runs[k].count, K::tile_width[Loop::target[t]]);
            }
        });
        return finite;
    }

    template <class Loop>
    static __attribute__((noinline)) void flush(Desk& desk, int64_t first) {
        if (!desk.run_count) return;
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (Loop::taken[p] >= 0) desk.product[p] = desk.ahead.slab(desk.flushed, Loop::taken[p]);
        });
        desk.flushed++;
        Base::template fill_walked<Loop>(desk.grid, desk);
        Base::template multiply<Loop>(desk.grid, desk);
        if constexpr (Loop::RUNNING > 0) Base::template run_all<Loop>(desk.grid, desk);
        Base::begin_block(desk);
        for (int k = 0; k < desk.run_count; k++) {
            if (desk.runs[k].masked) lift<Loop, true>(desk, desk.runs[k]);
            else lift<Loop, false>(desk, desk.runs[k]);
        }
        Base::join_statistics(desk);
        desk.careful = !walked_finite<Loop>(desk);
        Base::template accumulate<Loop>(desk.grid, desk);
        for_each<Loop::DEPOSITS>([&](auto place) {
            constexpr int n = Loop::FIRST_DEPOSIT + decltype(place)::value;
            if constexpr (K::panel_wanted[n])
                for (int k = 0; k < desk.run_count; k++) Base::template deposit<Loop, n>(desk, desk.runs[k]);
        });
        for_each<Loop::SCATTERS>([&](auto place) {
            constexpr int n = Loop::FIRST_SCATTER + decltype(place)::value;
            if constexpr (K::panel_wanted[K::DEPOSITS + n])
                for (int k = 0; k < desk.run_count; k++) Base::template scatter<Loop, n>(desk, desk.runs[k]);
        });
        Base::template put_pairs<Loop>(desk, first);
        desk.run_count = desk.used = 0;
    }

    // ---- one held tile

    static void fill_held(Desk& desk, int64_t first, int rows) {
        desk.vectors = (rows + LANES - 1) / LANES;
        for (int l = 0; l < TILE; l++) K::fill(desk.grid, *desk.held, l, first + (l < rows ? l : rows - 1));
    }
    template <class Loop>
    static void walk(Desk& desk, int64_t first, int rows) {
        const int64_t turns = Loop::AROUND ? K::turns(desk.grid) : 1;
        for (desk.turn = 0; desk.turn < turns; desk.turn++) {
            K::enter(*desk.call, desk.instance, desk.grid, desk.turn);
            const int64_t left = K::valid(desk.grid) - first;
            if (Loop::MASK || left < rows || Loop::count(desk.grid) < Loop::length(desk.grid)) Base::template clear_pairs<Loop>(desk, first, rows);
            if (left <= 0) continue;
            desk.seen = left < rows ? int(left) : rows;
            fill_held(desk, first, desk.seen);
            Base::template pack<Loop>(desk, first);
            Base::template begin_running<Loop>(desk.grid, desk, first, desk.seen);
            Base::template visit<Loop>(desk.grid, desk, first, desk.seen, [&] { flush<Loop>(desk, first); });
        }
    }
    template <class... Loops>
    static void walk_all(Sequence<Loops...>, Desk& desk, int64_t first, int rows) {
        (walk<Loops>(desk, first, rows), ...);
    }
    static __attribute__((noinline)) void tile(Desk& desk, int64_t first, int rows) {
        First::tile(desk.ahead, first, rows);
        const TileSession session;
        desk.run_count = desk.used = 0;
        desk.flushed = 0;
        desk.fresh = true;
        desk.careful = desk.moving = false;
        for (int l = 0; l < TILE; l++) {
            desk.reference[l] = 0;
            desk.limit[l] = desk.top[l] = -INFINITE;
            for (int s = 0; s < K::STATISTICS; s++) desk.statistic[s][l] = K::statistic_unit[s];
        }
        walk_all(typename K::Loops{}, desk, first, rows);
        K::enter(*desk.call, desk.instance, desk.grid, 0);
        fill_held(desk, first, rows);
        Base::finish(desk.grid, desk, first, rows);
    }

    // ---- one call

    static Desk lay_out(Arena& arena, const Call& call, const Grid& grid) {
        Desk desk;
        static_cast<typename Base::Desk&>(desk) = Base::lay_out(arena, grid);
        desk.ahead = First::lay_out(arena, call);
        return desk;
    }
    static int64_t desk_bytes(const Call& call, const Grid& grid) {
        Arena arena{nullptr};
        lay_out(arena, call, grid);
        return round_up(arena.used, 4096) + 64;
    }
    static int64_t bytes(const Call& call) {
        if (!K::WANTED || !K::grid_count(call)) return 0;
        Grid probe;
        K::enter(call, 0, probe);
        Arena arena{nullptr};
        typename K::Shared shared;
        Base::make_summaries(call, shared, arena, true);
        typename First::Shared first;
        First::make_summaries(call, first, arena, true);
        return arena.used + 64 + call.threads * desk_bytes(call, probe);
    }
    static void run(const Call& call, char* scratch) {
        const int64_t grids = K::grid_count(call);
        if (!K::WANTED || !grids) return;
        Arena common{scratch};
        typename K::Shared shared;
        Base::make_summaries(call, shared, common, false);
        typename First::Shared ahead;
        First::make_summaries(call, ahead, common, false);
        char* desks = scratch + round_up(common.used, 64);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), tiles = (rows + TILE - 1) / TILE, size = desk_bytes(call, probe);
        const auto sit_down = [&](int64_t worker, int64_t instance) {
            Arena arena{desks + worker * size};
            Desk desk = lay_out(arena, call, probe);
            desk.call = &call;
            desk.instance = instance;
            K::enter(call, instance, desk.grid);
            desk.grid.shared = &shared;
            First::enter(call, instance, ahead, desk.ahead);
            return desk;
        };
        const auto one_tile = [&](Desk& desk, int64_t number) {
            const int64_t first = number * TILE;
            tile(desk, first, int(rows - first < TILE ? rows - first : TILE));
        };
        if constexpr (PANELS == 0) {
            parallel_tasks(call.threads, grids * tiles, [&](int64_t worker, int64_t task) {
                Desk desk = sit_down(worker, task / tiles);
                one_tile(desk, task % tiles);
            });
        } else {
            parallel_tasks(call.threads, grids, [&](int64_t worker, int64_t instance) {
                Desk desk = sit_down(worker, instance);
                place_panels(desk);
                clear_panels(desk);
                const int64_t share = K::share(desk.grid), shares = K::shares(desk.grid);
                for (int64_t number = share; number < tiles; number += shares) one_tile(desk, number);
                write_panels(desk);
            });
        }
    }
};

// A sweep behind the kernel ahead of it, or the one of the two that is wanted.
template <class Leader, class K>
using Followed = std::conditional_t<!Leader::WANTED, Sweep<K>, std::conditional_t<K::WANTED, Sweep<K, Ahead<Leader>>, Stream<Leader>>>;

}  // namespace attnc
