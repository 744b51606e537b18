// What a held tile adds to memory: rows that it walks (deposits), tables (scatters), a number for each
// pair (planes). Deposits and scatters are summed in panels, which belong to one grid instance and are
// written out at its end; what adds to one array shares its panel.
#pragma once
#include "sums.hpp"

namespace attnc {

// What layers are for (K::layer_uses).
constexpr int ADDED = 1, DEPOSITED = 2, PLAIN = 4;

template <class K>
struct Panels : Stream<K> {
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
    // Whether the array that a panel is written to lies as the panel would: then it is the panel.
    template <int P>
    static bool in_place(const Grid& grid) {
        if constexpr (!K::panel_kept[P] || K::panel_turns[P]) return false;
        const auto out = K::template panel_target<P>(grid);
        if (!std::is_same_v<decltype(out.data), const Acc*>) return false;
        return out.stride == stride_of(K::panel_width[P]) && (K::panel_width[P] == 0 || out.step == 1);
    }
    template <int P>
    static int64_t panel_size(const Grid& grid) {
        if (!K::panel_wanted[P] || K::panel_owner[P] != P) return 0;
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
            constexpr int owner = K::panel_owner[p];
            desk.panel[p] = owner == p ? arena.template take<Acc>(in_place<p>(grid) ? 0 : panel_size<p>(grid)) : desk.panel[owner];
        });
        return desk;
    }
    static void place_panels(Desk& desk) {
        for_each<PANELS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if (in_place<p>(desk.grid)) desk.panel[p] = (Acc*)K::template panel_target<p>(desk.grid).data;
        });
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

    // ---- what a block adds

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
            if ((run.masked || Loop::GUARDED) && !desk.held_finite[N]) return deposit_seen(weight, rows, end - lane, run.count, stride, out);
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
                if (is_hidden(by)) continue;
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
                        if (places[l] >= 0 && places[l] < size && !(Loop::GUARDED && is_hidden(terms[l])))
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

    // ---- the panels of a grid instance

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
            if constexpr (!K::panel_wanted[p] || K::panel_owner[p] != p) return;
            if (in_place<p>(desk.grid)) return;
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
};

}  // namespace attnc
