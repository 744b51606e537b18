// The stream kernel for rows that each see walked positions of their own (tables of chosen blocks):
// a tile of rows would walk all that any of its rows sees. So rows are slots as in few.hpp, of one
// instance or of several that read the same keys (heads of a group); a stretch that several slots
// see is multiplied for all of them at once, the stretch held and the slots walked.
#pragma once
#include "sights.hpp"

namespace attnc {

constexpr int MANY = 4;       // slots for which a stretch is worth to be turned
constexpr int AHEAD = 2;      // blocks that are brought nearer while another is multiplied

constexpr int CROWD = 16 * TILE;  // slots: the more, the more of them see a stretch while it is in cache
constexpr int TASKS = 8;          // of a call, at least, where they are worth it

template <class K>
struct Scattered : Sights<K, CROWD> {
    using Slots = Sights<K, CROWD>;
    using Whole = typename Slots::Whole;
    using Grid = typename K::Grid;
    using Seen = typename Slots::Seen;
    using Slots::STRIPS, Slots::begin, Slots::join, Slots::keep, Slots::padded, Slots::record;

    struct Desk : Slots::Desk {
        const Acc* turned;               // walked operands of the loop: [blocks][units][TILE]
        Unit* asked;                     // queries or weights of the slots of a stretch
        Acc* found[K::PRODUCTS_MOST];    // [slots][TILE]
        Acc* weights[K::LAYERS_MOST];    // [slots][TILE]
        Acc* sum;                        // [slots][padded width]
        bool together;                   // all slots read the operands that were turned, from one start
    };
    static Desk lay_out(Arena& arena) {
        Desk desk;
        static_cast<typename Slots::Desk&>(desk) = Slots::lay_out(arena);
        desk.asked = arena.template take<Unit>(CROWD * (Slots::padded_widest() > TILE ? Slots::padded_widest() : TILE));
        for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.found[p] = arena.template take<Acc>(CROWD * TILE);
        for (int t = 0; t < K::LAYERS_MOST; t++) desk.weights[t] = arena.template take<Acc>(CROWD * TILE);
        desk.sum = arena.template take<Acc>(CROWD * Slots::padded_widest());
        return desk;
    }
    static int64_t desk_bytes() {
        Arena arena{nullptr};
        lay_out(arena);
        arena.template take<Acc>(CROWD * record());
        return round_up(arena.used, 4096) + 64;
    }

    // ---- walked operands, transposed once for all rows, in blocks of TILE positions

    template <class Loop>
    static constexpr int units_before(int product) {
        int units = 0;
        for (int p = 0; p < product; p++) units += (Loop::depth[p] + FOLD - 1) / FOLD;
        return units;
    }
    template <class Loop>
    static int64_t blocks(const Grid& grid) { return (Loop::length(grid) + TILE - 1) / TILE; }
    template <class Loop, class Any>
    static Any* turned(Any* all, int product, int64_t block) {
        return all + (block * units_before<Loop>(Loop::PRODUCTS) + units_before<Loop>(product)) * TILE;
    }
    template <class Loop>
    static int64_t turned_size(const Grid& grid) { return blocks<Loop>(grid) * units_before<Loop>(Loop::PRODUCTS) * TILE; }
    template <class... Loops>
    static int64_t turned_sizes(Sequence<Loops...>, const Grid& grid) { return (int64_t(0) + ... + turned_size<Loops>(grid)); }

    template <class Loop>
    static void turn(const Grid& grid, int64_t block, Acc* line, Acc* all) {
        const int64_t first = block * TILE, left = Loop::length(grid) - first;
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            Whole::pack_held(Loop::template right<p>(grid), first, int(left < TILE ? left : TILE), Loop::depth[p], turned<Loop>(all, p, block), line);
        });
    }

    // ---- a stretch for several slots

    // Whether a slot reads the walked operands that were turned, from the same start.
    template <class Loop>
    static bool joins(const Desk& desk, int slot) {
        const Grid &a = desk.grids[0], &b = desk.grids[slot];
        bool same = Loop::start(a) == Loop::start(b);
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value;
            same = same && Loop::template right<p>(a).data == Loop::template right<p>(b).data;
        });
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value;
            same = same && Loop::template operand<t>(a).data == Loop::template operand<t>(b).data;
        });
        return same;
    }

    // body(first, count, false) for neighbours among the slots, where there are enough for products of
    // their own; else body(0, slots, true): what they have lies apart, or is `kept` so.
    static constexpr int NEIGHBOURS = 8;
    template <class Body>
    static void in_runs(bool kept, const int* slot, int slots, const Body& body) {
        int runs = 1;
        for (int m = 1; m < slots; m++) runs += slot[m] != slot[m - 1] + 1;
        if (kept || runs * NEIGHBOURS > slots) return body(0, slots, kept || runs > 1);
        for (int m = 0, end; m < slots; m = end) {
            for (end = m + 1; end < slots && slot[end] == slot[end - 1] + 1;) end++;
            body(m, end - m, false);
        }
    }

    template <class Loop>
    static void multiply(Desk& desk, const int* slot, int slots, int64_t first, int count) {
        for_each<Loop::PRODUCTS>([&](auto place) {
            constexpr int p = decltype(place)::value, width = Loop::depth[p], units = (width + FOLD - 1) / FOLD;
            constexpr bool dense = !PAIRS && units == Slots::padded_widest();  // queries are as they are asked
            const Acc* held = turned<Loop>(desk.turned, p, first / TILE) + first % TILE;
            in_runs(false, slot, slots, [&](int from, int some, bool apart) {
                const Acc* queries = desk.query[p] + slot[from] * Slots::padded_widest();
                if (!dense || apart) queries = (const Acc*)desk.asked;
                for (int m = 0; m < some && (!dense || apart); m++) {
                    const Acc* query = desk.query[p] + slot[from + m] * Slots::padded_widest();
                    if constexpr (PAIRS)
                        for (int c = 0; c < units * FOLD; c += LANES) store_elements((Element*)(desk.asked + m * units) + c, load(query + c), units * FOLD - c < LANES ? units * FOLD - c : LANES);
                    else std::memcpy(desk.asked + m * units, query, sizeof(Acc) * units);
                }
                const WalkedOperand asked{(const char*)queries, units * int64_t(sizeof(Unit)), sizeof(Unit)};
                products_in_parts(0, (count + LANES - 1) / LANES, asked, held, units, desk.found[p] + from * TILE, some);
            });
        });
    }

    static bool finite(const Acc* sum, int width) {
        Real all(Acc(0));
        for (int c = 0; c < width; c += LANES) all = fused(load_elements(sum + c, width - c < LANES ? width - c : LANES), Real(0), all);
        return !(all != all).any();
    }

    template <class Loop, bool MASKED>
    static void accumulate(Desk& desk, const int* slot, int slots, int64_t first, int count) {
        const int depth = (count + FOLD - 1) / FOLD;
        for_each<Loop::TERMS>([&](auto place) {
            constexpr int t = decltype(place)::value, width = K::tile_width[Loop::target[t]], wide = int(padded(width));
            const auto rows = Loop::template operand<t>(desk.grids[slot[0]]);
            using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
            const Acc* weights = desk.weights[Loop::layer[t]];
            const Acc* values = desk.staged;
            if constexpr (PAIRS) {
                for (int k = 0; k < count; k += 2)
                    interleave_rows(rows.row(first + k), k + 1 < count ? rows.row(first + k + 1) : nullptr, rows.step, width, (uint32_t*)desk.staged + k / 2 * wide);
                for (int m = 0; m < slots; m++)
                    for (int k = 0; k < depth * FOLD; k += LANES)
                        store_elements((Element*)(desk.asked + m * TILE) + k, load(weights + m * TILE + k));
                weights = (const Acc*)desk.asked;
            } else if (std::is_same_v<T, Acc> && rows.step == 1 && rows.stride == wide) {
                values = (const Acc*)rows.row(first);
            } else {
                for (int k = 0; k < count; k++) stage_row(rows.row(first + k), rows.step, width, desk.staged + k * wide);
            }
            in_runs(MASKED, slot, slots, [&](int from, int some, bool apart) {
                Acc* tile = desk.tile[Loop::target[t]];
                const WalkedOperand lifted{(const char*)(weights + from * TILE), TILE * int64_t(sizeof(Unit)), sizeof(Unit)};
                products_between<wide, wide>(!apart, 0, wide / LANES, lifted, values, depth, apart ? desk.sum : tile + slot[from] * wide, some);
                for (int m = 0; m < some && apart; m++) {
                    const Acc* sum = desk.sum + m * wide;
                    if (MASKED && !finite(sum, width)) {  // a masked value may have met 0
                        Slots::template add_rows<Loop, t>(desk, slot[m], first, count, desk.weights[Loop::layer[t]] + m * TILE);
                        continue;
                    }
                    Acc* to = tile + slot[m] * wide;
                    for (int c = 0; c < wide; c += LANES) store(to + c, load(to + c) + load(sum + c));
                }
            });
        });
    }

    template <class Loop, bool MASKED>
    static __attribute__((noinline)) void stretch(Desk& desk, const int* slot, int slots, int64_t first, int count) {
        auto& walked = *(typename Loop::template Walked<BLOCK>*)desk.walked;
        multiply<Loop>(desk, slot, slots, first, count);
        Acc *score[K::PRODUCTS_MOST], *weight[K::LAYERS_MOST];
        std::memcpy(score, desk.score, sizeof score);
        std::memcpy(weight, desk.weight, sizeof weight);
        for (int m = 0; m < slots; m++) {
            for (int p = 0; p < K::PRODUCTS_MOST; p++) desk.score[p] = desk.found[p] + m * TILE;
            for (int t = 0; t < K::LAYERS_MOST; t++) desk.weight[t] = desk.weights[t] + m * TILE;
            if (!m || !Loop::WALKED_ALIKE)
                for (int64_t k = 0; k < round_up(count, LANES); k++)
                    Loop::fill(desk.grids[slot[m]], walked, int(k), first + (k < count ? k : count - 1));
            Slots::template lift<Loop, MASKED>(desk, slot[m], first, count);
        }
        std::memcpy(desk.score, score, sizeof score);
        std::memcpy(desk.weight, weight, sizeof weight);
        accumulate<Loop, MASKED>(desk, slot, slots, first, count);
    }

    // ---- a window

    // Brings what is walked of a window nearer: its stretches are no stream that a processor foresees.
    template <class Loop>
    static void fetch_ahead(const Desk& desk, int64_t first, int64_t last) {
        const auto bring = [&](const auto& rows, int width) {
            for (int64_t row = first; row < last; row++)
                for (int c = 0; c < width; c += 64 / int(sizeof(*rows.data))) __builtin_prefetch(rows.row(row) + c * rows.step, 0, 2);
        };
        const Acc *keys = turned<Loop>(desk.turned, 0, first / TILE), *end = turned<Loop>(desk.turned, 0, (last + TILE - 1) / TILE);
        for (; keys < end; keys += 64 / int(sizeof(Acc))) __builtin_prefetch(keys, 0, 2);
        for_each<Loop::TERMS>([&](auto place) { bring(Loop::template operand<decltype(place)::value>(desk.grids[0]), K::tile_width[Loop::target[decltype(place)::value]]); });
    }

    template <class Loop>
    static void meet(Desk& desk, int64_t from, int64_t to) {
        Seen& seen = *desk.seen;
        constexpr int PER_BLOCK = TILE / STRIP;  // strips
        const auto bring = [&](int strip) {
            const int64_t first = from + strip * STRIP;
            if (strip >= 0 && seen.bunches[strip]) fetch_ahead<Loop>(desk, first, first + TILE < to ? first + TILE : to);
        };
        for (int strip = STRIPS - PER_BLOCK; strip > STRIPS - PER_BLOCK * (AHEAD + 1); strip -= PER_BLOCK) bring(strip);
        for (int strip = STRIPS - 1; strip >= 0; strip--) {  // the largest exponents tend to be the last
            if (strip % PER_BLOCK == PER_BLOCK - 1) bring(strip + 1 - PER_BLOCK * (AHEAD + 1));
            while (const int bunches = seen.bunches[strip]) {
                const int16_t count = seen.count[strip][0];  // of those that go together
                int members[CROWD], slots = 0, others = 0;
                for (int n = 0; n < bunches; n++) {
                    const int16_t bunch = seen.bunch[strip][n], own = seen.count[strip][n];
                    if (own == count) {
                        for (int slot = desk.bunch[bunch]; slot < desk.bunch[bunch + 1]; slot++) members[slots++] = slot;
                        continue;
                    }
                    seen.bunch[strip][others] = bunch;
                    seen.count[strip][others++] = own;
                }
                seen.bunches[strip] = others;
                const int64_t first = from + strip * STRIP;
                if (slots >= MANY && desk.together) {
                    if (count > 0) stretch<Loop, false>(desk, members, slots, first, count);
                    else stretch<Loop, true>(desk, members, slots, first, -count);
                    continue;
                }
                for (int m = 0; m < slots; m++) {
                    if (count > 0) Slots::template span<Loop, false>(desk, members[m], first, count);
                    else Slots::template span<Loop, true>(desk, members[m], first, -count);
                }
            }
        }
    }

    template <class Loop>
    static void walk(Desk& desk) {
        Slots::template stage_queries<Loop>(desk);
        Slots::template find_bunches<Loop>(desk);
        desk.together = true;
        for (int slot = 1; slot < desk.slots && desk.together; slot++) desk.together = joins<Loop>(desk, slot);
        const int64_t count = Loop::count(desk.grids[0]);
        for (int64_t from = (count - 1) / WINDOW * WINDOW; from >= 0; from -= WINDOW) {
            const int64_t to = from + WINDOW < count ? from + WINDOW : count;
            Slots::template look<Loop>(desk, from, to);
            meet<Loop>(desk, from, to);
        }
    }
    // What was turned lies loop by loop, in each group by group.
    template <class Loop, class... Rest>
    static void walk_all(Sequence<Loop, Rest...>, Desk& desk, const Acc* all, int64_t group, int64_t groups) {
        const int64_t size = turned_size<Loop>(desk.grids[0]);
        desk.turned = all + group * size;
        walk<Loop>(desk);
        if constexpr (sizeof...(Rest) > 0) walk_all(Sequence<Rest...>{}, desk, all + groups * size, group, groups);
    }
    template <class Loop, class... Rest>
    static void turn_all(Sequence<Loop, Rest...>, const Call& call, const Grid& probe, Acc* all, int64_t group, char* scratch, int64_t desk) {
        const int64_t groups = K::grid_count(call) / group, size = turned_size<Loop>(probe), count = blocks<Loop>(probe);
        parallel_tasks(Whole::threads_worth(call, probe), groups * count, [&](int64_t worker, int64_t task) {
            Arena arena{scratch + worker * desk};
            Grid grid;
            K::enter(call, task / count * group, grid);
            turn<Loop>(grid, task % count, lay_out(arena).sum, all + task / count * size);
        });
        if constexpr (sizeof...(Rest) > 0) turn_all(Sequence<Rest...>{}, call, probe, all + groups * size, group, scratch, desk);
    }

    // ---- whether a call is one of these

    // Pairs that tiles of rows would walk, less WORTH times those that their rows see, over samples.
    static constexpr int WORTH = 2, SAMPLES = 8;
    template <class Loop>
    static int64_t gain(const Grid& grid, int64_t first, int rows) {
        const int64_t count = Loop::count(grid), held = K::start(grid) + first;
        const auto pairs = [&](int64_t low, int64_t high) {
            int64_t sum = 0;
            const auto add = [&](int64_t a, int64_t b) { sum += (b - a) * (high - low + 1); };
            bisect(typename Whole::template Ask<Loop>{grid, low, high, Loop::start(grid)}, 0, count, add, add);
            return sum;
        };
        int64_t own = 0;
        for (int row = 0; row < rows; row++) own += pairs(held + row, held + row);
        return pairs(held, held + rows - 1) - WORTH * own;
    }
    template <class... Loops>
    static int64_t gain_of(Sequence<Loops...>, const Grid& grid, int64_t first, int rows) {
        return (int64_t(0) + ... + gain<Loops>(grid, first, rows));
    }
    static bool fits(const Call& call, const typename K::Shared& shared) {
        const int64_t grids = K::grid_count(call);
        int64_t sum = 0;
        for (int64_t sample = 0; sample < SAMPLES; sample++) {
            Grid grid;
            K::enter(call, sample * grids / SAMPLES, grid);
            grid.shared = &shared;
            const int64_t rows = K::count(grid), tiles = (rows + TILE - 1) / TILE;
            const int64_t first = (sample * tiles / SAMPLES) * TILE;
            sum += gain_of(typename K::Loops{}, grid, first, int(rows - first < TILE ? rows - first : TILE));
        }
        return sum > 0;
    }

    // ---- one call

    // Ends `rows` rows of the instance `number` of the slots, from row first + from.
    static void finish(Desk& desk, int number, int group, const Acc* records, typename Whole::Desk& whole, int64_t first, int64_t from, int rows) {
        whole.vectors = (rows + LANES - 1) / LANES;
        whole.fresh = false;
        for (int t = 0; t < K::TILES; t++) std::memset(whole.tile[t], 0, sizeof(Acc) * size_t(K::tile_width[t]) * TILE);
        for (int l = 0; l < whole.vectors * LANES; l++) {  // spare lanes repeat the last row
            const int64_t row = from + (l < rows ? l : rows - 1);
            K::fill(desk.grids[number], *whole.held, l, first + row);
            join(records + (row * group + number) * record(), l < rows, l, whole);
        }
        Whole::finish(desk.grids[number], whole, first + from, rows);
    }

    static int64_t bytes(const Call& call) {
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t groups = K::grid_count(call) / Slots::together(call, K::grid_count(call), 1);
        return call.threads * (desk_bytes() + Whole::desk_bytes()) + groups * turned_sizes(typename K::Loops{}, probe) * int64_t(sizeof(Acc));
    }

    static void run(const Call& call, const typename K::Shared& shared, char* scratch) {
        const int64_t grids = K::grid_count(call), group = Slots::together(call, grids, 1);
        Grid probe;
        K::enter(call, 0, probe);
        const int64_t rows = K::count(probe);
        int64_t chunk = CROWD / group;
        while (chunk > TILE && grids / group * rows < TASKS * chunk) chunk /= 2;
        const int64_t tiles = (rows + chunk - 1) / chunk;
        const int64_t own = desk_bytes(), ends = Whole::desk_bytes();
        Acc* all = (Acc*)(scratch + call.threads * (own + ends));
        turn_all(typename K::Loops{}, call, probe, all, group, scratch, own + ends);
        parallel_tasks(Whole::threads_worth(call, probe), grids / group * tiles, [&](int64_t worker, int64_t task) {
            const TileSession session;
            Arena arena{scratch + worker * (own + ends)};
            Desk desk = lay_out(arena);
            Acc* records = arena.template take<Acc>(CROWD * record());
            const int64_t base = task / tiles * group, first = (tiles - 1 - task % tiles) * chunk;
            const int64_t now = rows - first < chunk ? rows - first : chunk;
            desk.slots = int(group * now);
            for (int slot = 0; slot < desk.slots; slot++) {  // slots of a row lie together
                K::enter(call, base + slot % group, desk.grids[slot]);
                desk.grids[slot].shared = &shared;
                begin(desk, slot, first + slot / group);
            }
            walk_all(typename K::Loops{}, desk, all, task / tiles, grids / group);
            for (int slot = 0; slot < desk.slots; slot++) keep(desk, slot, records + slot * record());
            Arena rest{scratch + worker * (own + ends) + own};
            auto whole = Whole::lay_out(rest);
            for (int64_t n = 0; n < group; n++)
                for (int64_t from = 0; from < now; from += TILE) finish(desk, int(n), int(group), records, whole, first, from, now - from < TILE ? int(now - from) : TILE);
        });
    }
};

}  // namespace attnc
