// A block of walked positions: the runs that a tile visits are gathered in it, multiplied with held
// rows into scores, and the weights that come of these with operands into the carried tiles.
#pragma once
#include "carried.hpp"

namespace attnc {

template <class K>
struct Blocks : Carried<K> {
    using Base = Carried<K>;
    using Grid = typename K::Grid;
    using Desk = typename Base::Desk;
    using Run = typename Base::Run;

    // ---- the held side

    template <class R>
    static void pack_held(const R& rows, int64_t first, int count, int width, Acc* to, Acc* line) {
        const int units = (width + FOLD - 1) / FOLD, stride = units;
        if (count < TILE) std::memset(to, 0, sizeof(Acc) * size_t(units) * TILE);
        for (int r = 0; r < count; r++) {
            if constexpr (PAIRS) stage_pairs(rows.row(first + r), rows.step, width, (uint32_t*)line + r * stride);
            else stage_row(rows.row(first + r), rows.step, width, line + r * stride);
        }
        transpose((const Unit*)line, stride, (Unit*)to, TILE, count, units);
    }

    // ---- which runs of walked rows are in a block

    // Adds rows [first, last) to the block, from the last (upwards: from the first), and flushes it
    // whenever it is full.
    template <bool UPWARD, class Flush>
    static void add(Desk& desk, int64_t first, int64_t last, int v0, int v1, bool masked, const Flush& flush) {
        while (first < last) {
            const int room = BLOCK - desk.used;
            const int now = last - first < room ? int(last - first) : room;
            if (!UPWARD) last -= now;
            desk.runs[desk.run_count++] = {UPWARD ? first : last, now, desk.used, v0, v1, masked};
            if (UPWARD) first += now;
            desk.used = int(round_up(desk.used + now, 2));  // pairs begin at even rows
            if (desk.used >= BLOCK) flush();
        }
    }

    template <class Loop, bool TABLES = true>
    struct Ask {
        const Grid& grid;
        int64_t low, high, start;  // held bounds; position of walked row 0
        bool possible(int64_t a, int64_t b) const { return Loop::template possible<TABLES>(grid, Bound::within(low), Bound::within(high), Bound::within(start + a), Bound::within(start + b)); }
        bool certain(int64_t a, int64_t b) const { return Loop::template certain<TABLES>(grid, Bound::within(low), Bound::within(high), Bound::within(start + a), Bound::within(start + b)); }
    };

    // Every walked row that the held rows first .. first + rows meet, in blocks.
    template <class Loop, class Flush>
    static void visit(const Grid& grid, Desk& desk, int64_t first, int rows, const Flush& flush) {
        const int64_t count = Loop::count(grid);
        if constexpr (!Loop::MASK) {
            add<Loop::UPWARD>(desk, 0, count, 0, desk.vectors, false, flush);
        } else {
            const int64_t held = K::start(grid) + first, start = Loop::start(grid);
            const Ask<Loop> all{grid, held, held + rows - 1, start};
            bisect<Loop::UPWARD>(all, 0, count,
                [&](int64_t a, int64_t b) { add<Loop::UPWARD>(desk, a, b, 0, desk.vectors, false, flush); },
                [&](int64_t a, int64_t b) {
                    int v0 = desk.vectors, v1 = 0;
                    const auto part = [&](int from, int to) {
                        const int64_t end = to * LANES < rows ? to * LANES : rows;
                        return Ask<Loop>{grid, held + from * LANES, held + end - 1, start};
                    };
                    for (int v = 0; v < desk.vectors; v++)
                        if (part(v, v + 1).possible(a, b - 1)) {
                            v0 = v < v0 ? v : v0;
                            v1 = v + 1;
                        }
                    if (v0 < v1) add<Loop::UPWARD>(desk, a, b, v0, v1, !part(v0, v1).certain(a, b - 1), flush);
                });
        }
        flush();
    }

    template <class Loop>
    static void fill_walked(const Grid& grid, Desk& desk) {
        auto& walked = *(typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int k = 0; k < desk.run_count; k++)
            for (int r = 0; r < desk.runs[k].count; r++)
                Loop::fill(grid, walked, desk.runs[k].at + r, desk.runs[k].first + r);
    }

    // ---- products

    template <class Loop>
    static void multiply(const Grid& grid, Desk& desk) {
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            if constexpr (!Loop::product_wanted[p]) return;
            constexpr int width = Loop::depth[p], units = (width + FOLD - 1) / FOLD;
            const auto rows = Loop::template right<p>(grid);
            using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
            constexpr bool native = std::is_same_v<T, std::conditional_t<PAIRS, bf16, Acc>>;
            const bool direct = native && rows.step == 1 && width % FOLD == 0;
            for (int k = 0; k < desk.run_count; k++) {
                const Run& run = desk.runs[k];
                const char* walked = (const char*)rows.row(run.first);
                int64_t by_row = rows.stride * int64_t(sizeof(T));
                if (!direct) {
                    for (int r = 0; r < run.count; r++) {
                        if constexpr (PAIRS) stage_pairs(rows.row(run.first + r), rows.step, width, (uint32_t*)desk.staged + r * units);
                        else stage_row(rows.row(run.first + r), rows.step, width, desk.staged + r * units);
                    }
                    walked = (const char*)desk.staged;
                    by_row = int64_t(units) * sizeof(Unit);
                }
                products_in_parts(run.v0, run.v1, {walked, by_row, sizeof(Unit)}, desk.query[p], units, desk.product[p] + run.at * TILE, run.count);
            }
        });
    }

    // Products of a vector of pairs, then what runs along the walk as they find it.
    template <class Loop>
    static ATTNC_INLINE void load_pair(const Desk& desk, int r, int lane, Real* product) {
        ATTNC_UNROLL for (int p = 0; p < Loop::PRODUCTS; p++)
            product[p] = load(desk.product[p] + r * TILE + lane);
        ATTNC_UNROLL for (int n = 0; n < Loop::RUNNING; n++)
            product[Loop::PRODUCTS + n] = load(desk.along[n] + r * TILE + lane);
    }

    // ---- weights into tiles

    template <class Loop>
    static void accumulate(const Grid& grid, Desk& desk) {
        if (desk.fresh)
            for (int t = 0; t < K::TILES; t++)
                std::memset(desk.tile[t], 0, sizeof(Acc) * size_t(K::tile_width[t]) * TILE);
        desk.fresh = false;
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value;
            if constexpr (!Loop::term_wanted[t]) return;
            constexpr int width = K::tile_width[Loop::target[t]];
            const Acc* weights = desk.score[Loop::layer[t]];
            if constexpr (Loop::pairwise[t]) {
                for (int k = 0; k < desk.run_count; k++)
                    for (int v = desk.runs[k].v0; v < desk.runs[k].v1; v++)
                        add_vectors<Loop, t>(grid, desk, desk.runs[k], v * LANES, width, weights, desk.tile[Loop::target[t]]);
                return;
            } else {
            const auto rows = Loop::template operand<t>(grid);
            using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
            for (int k = 0; k < desk.run_count; k++) {
                const Run& run = desk.runs[k];
                if (__builtin_expect(desk.careful, 0)) {
                    add_seen(rows, run, width, weights, desk.tile[Loop::target[t]]);
                    continue;
                }
                const char* walked = (const char*)rows.row(run.first);
                int64_t step = rows.stride * int64_t(sizeof(T));
                const int depth = (run.count + FOLD - 1) / FOLD;
                if constexpr (PAIRS) {
                    for (int r = 0; r < run.count; r += 2)
                        interleave_rows(rows.row(run.first + r), r + 1 < run.count ? rows.row(run.first + r + 1) : nullptr, rows.step, width, (uint32_t*)desk.staged + r / 2 * width);
                } else if (!std::is_same_v<T, Acc> || rows.step != 1) {
                    for (int r = 0; r < run.count; r++)
                        stage_row(rows.row(run.first + r), rows.step, width, desk.staged + r * width);
                }
                if (TILED && depth >= TILE_ROWS) {  // columns become rows, which tile registers take
                    constexpr int long_row = BLOCK / FOLD;
                    Unit* turned = (Unit*)desk.staged + long_row * width;
                    transpose((const Unit*)desk.staged, width, turned, long_row, depth, width);
                    products_between(true, run.v0, run.v1, {(const char*)turned, long_row * sizeof(Unit), sizeof(Unit)}, weights + run.at / FOLD * TILE, depth, desk.tile[Loop::target[t]], width);
                    continue;
                }
                if (PAIRS || !std::is_same_v<T, Acc> || rows.step != 1) {
                    walked = (const char*)desk.staged;
                    step = width * int64_t(sizeof(Unit));
                }
                products_between(true, run.v0, run.v1, {walked, sizeof(Unit), step}, weights + run.at / FOLD * TILE, depth, desk.tile[Loop::target[t]], width);
            }
            }
        });
    }

    // A vector of each pair times its weight, into the tile; what is masked (weight -0) is left out.
    template <class Loop, int T>
    static __attribute__((noinline)) void add_vectors(const Grid& grid, const Desk& desk, const Run& run, int lane, int width, const Acc* weights, Acc* tile) {
        const auto& walked = *(const typename Loop::template Walked<BLOCK>*)desk.walked;
        for (int r = run.at; r < run.at + run.count; r++) {
            Real weight = load(weights + r / FOLD * TILE + lane);
            if constexpr (PAIRS)
                for (int l = 0; l < LANES; l++) {
                    const uint32_t pair = float_to_bits(float(weight.v[l]));
                    weight.v[l] = bits_to_float(r & 1 ? pair & 0xffff0000 : pair << 16);
                }
            const Truth seen = is_weight(weight);
            if (!seen.any()) continue;
            for (int c = 0; c < width; c++) {
                Acc* at = tile + c * TILE + lane;
                const Real entry = Loop::template vector<T>(grid, *desk.held, walked, HeldLanes{lane, r}, int64_t(c));
                store(at, fused(select(seen, weight, Real(0)), select(seen, entry, Real(0)), load(at)));
            }
        }
    }

    // The product of weights and an operand without the pairs that are masked (weight -0), so that
    // 0 * inf and 0 * NaN do not arise. Slow, and only for tiles that are not finite otherwise.
    template <class R>
    static __attribute__((noinline)) void add_seen(const R& rows, const Run& run, int width, const Acc* weights, Acc* tile) {
        for (int l = run.v0 * LANES; l < run.v1 * LANES; l++)
            for (int c = 0; c < width; c++)
                for (int from = 0; from < run.count; from += CHAIN) {  // parts as in any product
                    Acc sum = 0;
                    for (int r = from; r < run.count && r < from + CHAIN; r++) {
                        Acc weight;
                        if constexpr (PAIRS) {
                            const uint32_t pair = float_to_bits(weights[(run.at + r) / 2 * TILE + l]);
                            weight = bits_to_float(r & 1 ? pair & 0xffff0000 : pair << 16);
                        } else {
                            weight = weights[(run.at + r) * TILE + l];
                        }
                        if (is_hidden(weight)) continue;
                        sum = fused(weight, Acc(widen(rows.row(run.first + r)[c * rows.step])), sum);
                    }
                    tile[c * TILE + l] += sum;
                }
    }
};

}  // namespace attnc
