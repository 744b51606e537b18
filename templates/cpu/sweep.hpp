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
#include "few.hpp"
#include "sums.hpp"

namespace attnc {

// What layers are for (K::layer_uses).
constexpr int ADDED = 1, DEPOSITED = 2, PLAIN = 4;

// How many shares the held tiles of an instance are cut into where there are few instances.
inline int64_t share_count(int64_t instances, int64_t rows) {
    constexpr int64_t ENOUGH = 8, FEWEST = 4;  // tasks of a call; tiles of a share
    const int64_t tiles = (rows + TILE - 1) / TILE, most = tiles / FEWEST;
    const int64_t wanted = instances > 0 ? (ENOUGH + instances - 1) / instances : 1;
    return wanted < most ? wanted : most > 1 ? most : 1;
}

template <class K>
struct Sweep {
    using Base = Stream<K>;
    using Grid = typename K::Grid;
    using Run = typename Base::Run;
    using Weight = std::conditional_t<PAIRS, uint16_t, Acc>;  // of a deposit's product
    static constexpr int PANELS = K::DEPOSITS + K::SCATTERS;

    static constexpr int64_t stride_of(int width) { return width ? (width + LANES - 1) / LANES * LANES : 1; }

    struct Desk : Base::Desk {
        const Call* call;
        Grid grid;
        int64_t instance, turn;
        int seen;                        // held rows of the tile that count
        Weight* weight[K::LAYERS_MOST];  // of deposits, [BLOCK][TILE]
        Acc* plain[K::LAYERS_MOST];      // layers as numbers, [BLOCK][TILE]
        Acc* held_rows[K::DEPOSITS + 1];  // operands of deposits as units, [TILE / FOLD][stride]
        bool held_finite[K::DEPOSITS + 1];
        Int* place[K::SCATTERS + 1];   // [BLOCK][TILE]
        Acc* spread[K::SCATTERS + 1];  // operands of scatters, [rows][stride]
        Acc* panel[PANELS + 1];
    };
    template <int P>
    static int64_t panel_size(const Grid& grid) {
        if (!K::panel_wanted[P]) return 0;
        return (K::panel_turns[P] ? K::turns(grid) : 1) * K::template panel_rows<P>(grid) * stride_of(K::panel_width[P]);
    }
    static Desk lay_out(Arena& arena, const Grid& grid) {
        Desk desk;
        static_cast<typename Base::Desk&>(desk) = Base::lay_out(arena);
        for (int l = 0; l < K::LAYERS_MOST; l++) {
            desk.weight[l] = (Weight*)desk.score[l];
            desk.plain[l] = desk.score[l];
            if (!PAIRS) continue;
            if (K::layer_uses[l] & DEPOSITED) desk.weight[l] = arena.template take<Weight>(BLOCK * TILE);
            if (K::layer_uses[l] & PLAIN) desk.plain[l] = arena.template take<Acc>(BLOCK * TILE);
        }
        for (int n = 0; n < K::DEPOSITS; n++) desk.held_rows[n] = arena.template take<Acc>(TILE * stride_of(K::panel_width[n]));
        for (int n = 0; n < K::SCATTERS; n++) {
            constexpr int rows = TILE > BLOCK ? TILE : BLOCK;
            desk.place[n] = arena.template take<Int>(BLOCK * TILE);
            desk.spread[n] = arena.template take<Acc>(rows * stride_of(K::panel_width[K::DEPOSITS + n]));
        }
        for_each<PANELS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            desk.panel[p] = arena.template take<Acc>(panel_size<p>(grid));
        });
        return desk;
    }

    // ---- the held side; lanes beyond the last row repeat it

    template <class R>
    static void pack_lanes(const R& rows, int64_t first, int count, int width, Acc* to, Acc* line) {
        const int units = (width + FOLD - 1) / FOLD;
        for (int l = 0; l < TILE; l++) {
            const auto* row = rows.row(first + (l < count ? l : count - 1));
            if constexpr (PAIRS) stage_pairs(row, rows.step, width, (uint32_t*)line + l * units);
            else stage_row(row, rows.step, width, line + l * units);
        }
        transpose((const Unit*)line, units, (Unit*)to, TILE, TILE, units);
    }
    template <class R>
    static void pack_rows(const R& rows, int64_t first, int count, int width, Acc* to) {
        const int64_t stride = stride_of(width);
        if (stride != width) std::memset(to, 0, sizeof(Unit) * size_t(TILE / FOLD * stride));
        for (int l = 0; l < TILE; l += FOLD) {
            const auto row = [&](int at) { return rows.row(first + (at < count ? at : count - 1)); };
            if constexpr (PAIRS) interleave_rows(row(l), row(l + 1), rows.step, width, (uint32_t*)to + l / 2 * stride);
            else stage_row(row(l), rows.step, width, to + l * stride);
        }
    }
    template <class R>
    static void pack_numbers(const R& rows, int64_t first, int count, int width, Acc* to) {
        const int64_t stride = stride_of(width);
        if (stride != width) std::memset(to, 0, sizeof(Acc) * size_t(count * stride));
        for (int r = 0; r < count; r++) stage_row(rows.row(first + r), rows.step, width, to + r * stride);
    }
    template <class Loop>
    static void pack(Desk& desk, int64_t first) {
        const Grid& grid = desk.grid;
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (!Loop::product_wanted[p]) return;
            pack_lanes(Loop::template left<p>(grid), first, desk.seen, Loop::depth[p], desk.query[p], desk.line);
        });
        for_each<Loop::DEPOSITS>([&](auto place) {
            constexpr int n = Loop::FIRST_DEPOSIT + decltype(place)::value, width = K::panel_width[n];
            if constexpr (K::panel_wanted[n] && width > 0 && !K::panel_pairwise[n]) {
                const auto rows = K::template panel_operand<n>(grid);
                pack_rows(rows, first, desk.seen, width, desk.held_rows[n]);
                desk.held_finite[n] = all_finite(rows, first, desk.seen, width);
            }
        });
        for_each<Loop::SCATTERS>([&](auto place) {
            constexpr int n = Loop::FIRST_SCATTER + decltype(place)::value, p = K::DEPOSITS + n, width = K::panel_width[p];
            if constexpr (K::panel_wanted[p] && width > 0 && K::panel_held[p])
                pack_numbers(K::template panel_operand<p>(grid), first, desk.seen, width, desk.spread[n]);
        });
    }

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

    template <class Loop, int N>
    static void deposit(Desk& desk, const Run& run) {
        constexpr int width = K::panel_width[N], layer = K::panel_layer[N];
        constexpr int64_t stride = stride_of(width);
        const int64_t turn = K::panel_turns[N] ? desk.turn : 0;
        Acc* out = desk.panel[N] + (turn * K::template panel_rows<N>(desk.grid) + run.first) * stride;
        const int lane = run.v0 * LANES, end = run.v1 * LANES;
        if constexpr (width == 0) {
            for (int r = 0; r < run.count; r++) {
                Real sum(Acc(0));
                for (int l = lane; l < end; l += LANES) sum = sum + load(desk.plain[layer] + (run.at + r) * TILE + l);
                out[r] += sum_of(sum);
            }
        } else if constexpr (K::panel_pairwise[N]) {
            deposit_vectors<Loop, N>(desk, run, width, stride, out);
        } else {
            const Weight* weight = desk.weight[layer] + run.at * TILE + lane;
            const Acc* rows = desk.held_rows[N] + lane / FOLD * stride;
            if ((run.masked || Loop::HIDDEN) && !desk.held_finite[N]) return deposit_seen(weight, rows, end - lane, run.count, stride, out);
            products_between<int(stride), int(stride)>(
                true, 0, int(stride) / LANES, {(const char*)weight, sizeof(Weight) * TILE, sizeof(Unit)}, rows, (end - lane) / FOLD, out, run.count);
        }
    }
    // A vector of each pair times its term, lanes summed column by column; without masked pairs.
    template <class Loop, int N>
    static __attribute__((noinline)) void deposit_vectors(const Desk& desk, const Run& run, int width, int64_t stride, Acc* out) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int r = run.at; r < run.at + run.count; r++, out += stride)
            for (int v = run.v0; v < run.v1; v++) {
                const HeldLanes at{v * LANES, r};
                const Real term = load(desk.plain[K::panel_layer[N]] + r * TILE + at.lane);
                const Truth seen = is_weight(term);
                if (!seen.any()) continue;
                for (int c = 0; c < width; c++) {
                    const Real entry = Loop::template vector<Loop::TERMS + N - Loop::FIRST_DEPOSIT>(desk.grid, *desk.held, walked, at, int64_t(c));
                    out[c] += sum_of(select(seen, term * entry, Real(0)));
                }
            }
    }
    // The same without masked pairs (weight -0): slow, and only where an operand is not finite.
    static __attribute__((noinline)) void deposit_seen(const Weight* weight, const Acc* rows, int lanes, int count, int64_t stride, Acc* out) {
        for (int r = 0; r < count; r++)
            for (int l = 0; l < lanes; l++) {
                Acc by;
                if constexpr (PAIRS) by = widen(bf16{weight[r * TILE + l]});
                else by = weight[r * TILE + l];
                if (by == 0 && std::signbit(by)) continue;
                for (int64_t c = 0; c < stride; c++) {
                    Acc x = rows[l / FOLD * stride + c];
                    if constexpr (PAIRS) x = bits_to_float(l & 1 ? float_to_bits(x) & 0xffff0000 : float_to_bits(x) << 16);
                    out[r * stride + c] = fused(by, x, out[r * stride + c]);
                }
            }
    }

    template <class Loop, int N>
    static void scatter(Desk& desk, const Run& run) {
        constexpr int p = K::DEPOSITS + N, width = K::panel_width[p], layer = K::panel_layer[p];
        constexpr int64_t stride = stride_of(width);
        const int64_t size = K::template panel_rows<p>(desk.grid);
        Acc* table = desk.panel[p] + (K::panel_turns[p] ? desk.turn : 0) * size * stride;
        if constexpr (width > 0 && !K::panel_held[p])
            pack_numbers(K::template panel_operand<p>(desk.grid), run.first, run.count, width, desk.spread[N]);
        const int end = run.v1 * LANES < desk.seen ? run.v1 * LANES : desk.seen;
        for (int r = 0; r < run.count; r++) {
            const Int* places = desk.place[N] + (run.at + r) * TILE;
            const Acc* terms = desk.plain[layer] + (run.at + r) * TILE;
            for (int lane = run.v0 * LANES; lane < end; lane += LANES) {
                const int lanes = end - lane < LANES ? end - lane : LANES;
                if constexpr (width == 0) {
                    scatter_numbers(table, size, places + lane, terms + lane, lanes);
                } else {
                    for (int l = lane; l < lane + lanes; l++)
                        if (places[l] >= 0 && places[l] < size)
                            scatter_row<stride>(table + places[l] * stride, terms[l], desk.spread[N] + (K::panel_held[p] ? l : r) * stride);
                }
            }
        }
    }

    // A number for each pair; what is not visited is 0.
    template <class Loop>
    static void put_pairs(Desk& desk, int64_t first) {
        for_each<Loop::PLANES>([&](auto place) {
            constexpr int n = Loop::FIRST_PLANE + decltype(place)::value;
            const auto plane = K::template plane<n>(desk.grid);
            if (!plane.data) return;
            for (int k = 0; k < desk.run_count; k++) {
                const Run& run = desk.runs[k];
                const int lane = run.v0 * LANES, end = run.v1 * LANES < desk.seen ? run.v1 * LANES : desk.seen;
                plane.put(first + lane, run.first, run.count, end - lane, desk.plain[K::plane_layer[n]] + run.at * TILE + lane);
            }
        });
    }
    template <class Loop>
    static void clear_pairs(Desk& desk, int64_t first, int rows) {
        for_each<Loop::PLANES>([&](auto place) {
            const auto plane = K::template plane<Loop::FIRST_PLANE + decltype(place)::value>(desk.grid);
            if (plane.data) plane.clear(first, rows, Loop::length(desk.grid));
        });
    }

    template <class Loop>
    static __attribute__((noinline)) void flush(Desk& desk, int64_t first) {
        if (!desk.run_count) return;
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
                for (int k = 0; k < desk.run_count; k++) deposit<Loop, n>(desk, desk.runs[k]);
        });
        for_each<Loop::SCATTERS>([&](auto place) {
            constexpr int n = Loop::FIRST_SCATTER + decltype(place)::value;
            if constexpr (K::panel_wanted[K::DEPOSITS + n])
                for (int k = 0; k < desk.run_count; k++) scatter<Loop, n>(desk, desk.runs[k]);
        });
        put_pairs<Loop>(desk, first);
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
            if (Loop::MASK || left < rows || Loop::count(desk.grid) < Loop::length(desk.grid)) clear_pairs<Loop>(desk, first, rows);
            if (left <= 0) continue;
            desk.seen = left < rows ? int(left) : rows;
            fill_held(desk, first, desk.seen);
            pack<Loop>(desk, first);
            Base::template begin_running<Loop>(desk.grid, desk, first, desk.seen);
            Base::template visit<Loop>(desk.grid, desk, first, desk.seen, [&] { flush<Loop>(desk, first); });
        }
    }
    template <class... Loops>
    static void walk_all(Sequence<Loops...>, Desk& desk, int64_t first, int rows) {
        (walk<Loops>(desk, first, rows), ...);
    }
    static __attribute__((noinline)) void tile(Desk& desk, int64_t first, int rows) {
        const TileSession session;
        desk.run_count = desk.used = 0;
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

    // ---- one grid instance

    static void clear_panels(Desk& desk) {
        for_each<PANELS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            std::memset(desk.panel[p], 0, sizeof(Acc) * size_t(panel_size<p>(desk.grid)));
        });
    }
    static void write_panels(Desk& desk) {
        for_each<PANELS>([&](auto place) {
            constexpr int p = decltype(place)::value, width = K::panel_width[p] ? K::panel_width[p] : 1;
            constexpr int64_t stride = stride_of(K::panel_width[p]);
            if constexpr (!K::panel_wanted[p]) return;
            const int64_t turns = K::panel_turns[p] ? K::turns(desk.grid) : 1, count = K::template panel_rows<p>(desk.grid);
            for (int64_t turn = 0; turn < turns; turn++) {
                K::enter(*desk.call, desk.instance, desk.grid, turn);
                const auto out = K::template panel_target<p>(desk.grid);
                if (!out.data) return;
                using T = std::remove_const_t<std::remove_pointer_t<decltype(out.data)>>;
                for (int64_t r = 0; r < count; r++) {
                    const Acc* from = desk.panel[p] + (turn * count + r) * stride;
                    T* to = const_cast<T*>(out.row(r));
                    for (int c = 0; c < width; c += LANES) Base::write_row(to + c * out.step, out.step, from + c, width - c < LANES ? width - c : LANES);
                }
            }
        });
    }

    // ---- one call

    static int64_t desk_bytes(const Grid& grid) {
        Arena arena{nullptr};
        lay_out(arena, grid);
        return round_up(arena.used, 4096) + 64;
    }
    static int64_t bytes(const Call& call) {
        if (!K::WANTED || !K::grid_count(call)) return 0;
        Grid probe;
        K::enter(call, 0, probe);
        Arena arena{nullptr};
        typename K::Shared shared;
        Base::make_summaries(call, shared, arena, true);
        return arena.used + 64 + call.threads * desk_bytes(probe);
    }
    static void run(const Call& call, char* scratch) {
        const int64_t grids = K::grid_count(call);
        if (!K::WANTED || !grids) return;
        Arena common{scratch};
        typename K::Shared shared;
        Base::make_summaries(call, shared, common, false);
        char* desks = scratch + round_up(common.used, 64);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe), tiles = (rows + TILE - 1) / TILE, size = desk_bytes(probe);
        const auto sit_down = [&](int64_t worker, int64_t instance) {
            Arena arena{desks + worker * size};
            Desk desk = lay_out(arena, probe);
            desk.call = &call;
            desk.instance = instance;
            K::enter(call, instance, desk.grid);
            desk.grid.shared = &shared;
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
                clear_panels(desk);
                const int64_t share = K::share(desk.grid), shares = K::shares(desk.grid);
                for (int64_t number = share; number < tiles; number += shares) one_tile(desk, number);
                write_panels(desk);
            });
        }
    }
};

}  // namespace attnc
