// What rows see that each see walked positions of their own (tables of chosen blocks): the slots of a
// stretch, found window by window. What numbers alone say of the mask is asked for tiles of rows;
// of tables, the entries of a row are read as they lie, a bit for each tile of walked positions.
#pragma once
#include "few.hpp"

namespace attnc {

constexpr int WINDOW = 2048;  // walked positions whose stretches are gathered at a time
constexpr int GLANCE = 512;   // positions that a row is asked about before their tiles
constexpr int ENTRIES = 4;    // of a table for a tile of walked positions, at most: else it is asked
constexpr int ROWS_AHEAD = 8;  // of a table, that are brought nearer while others are read

template <class K, int CROWD>
struct Sights : Few<K, CROWD> {
    using Slots = Few<K, CROWD>;
    using Whole = typename Slots::Whole;
    using Grid = typename K::Grid;

    static constexpr int STRIPS = WINDOW / STRIP, TILES = WINDOW / TILE, PARTS = CROWD / TILE + 1;
    using Bits = uint64_t;  // one for each tile of a window
    static_assert(TILES <= 64);

    struct Seen {  // stretches of a window by the strip that they begin at
        int bunches[STRIPS];           // that have one
        int16_t bunch[STRIPS][CROWD];  // which
        int16_t count[STRIPS][CROWD];  // its positions; negative where some are masked
    };
    struct Desk : Slots::Desk {
        Seen* seen;
        int bunch[CROWD + 1];  // the first slot of each bunch: slots of a row that see alike
        int bunches, abreast;  // abreast: of a row
    };
    static Desk lay_out(Arena& arena) {
        Desk desk;
        static_cast<typename Slots::Desk&>(desk) = Slots::lay_out(arena);
        desk.seen = arena.template take<Seen>(1);
        return desk;
    }

    template <class Loop>
    static void find_bunches(Desk& desk) {
        desk.bunches = desk.abreast = 0;
        for (int slot = 0; slot < desk.slots; slot++) {
            const int first = slot ? desk.bunch[desk.bunches - 1] : 0;
            const bool alike = slot && desk.row[slot] == desk.row[first] && Loop::alike(desk.grids[slot], desk.grids[first]);
            if (!alike) desk.bunch[desk.bunches++] = slot;
            if (desk.row[slot] == desk.row[0]) desk.abreast = desk.bunches;
        }
        desk.bunch[desk.bunches] = desk.slots;
    }

    // ---- what is noted of a window

    static void note(Seen& seen, int bunch, int64_t strip, int count) {
        const int place = seen.bunches[strip]++;
        seen.bunch[strip][place] = int16_t(bunch);
        seen.count[strip][place] = int16_t(count);
    }
    // Notes what is seen of a tile [x, y) that is neither hidden nor whole; x is `strip` of the window.
    template <class Ask>
    static void divide(Seen& seen, int bunch, const Ask& ask, int64_t strip, int64_t x, int64_t y) {
        bisect(ask, x, y, [&](int64_t a, int64_t b) { note(seen, bunch, strip + (a - x) / STRIP, int(b - a)); },
               [&](int64_t a, int64_t b) { note(seen, bunch, strip + (a - x) / STRIP, int(a - b)); });
    }
    template <class Loop, bool TABLES>
    static typename Whole::template Ask<Loop, TABLES> ask(const Grid& grid, int64_t low, int64_t high) {
        return {grid, K::start(grid) + low, K::start(grid) + high, Loop::start(grid)};
    }
    static Bits below(int count) { return count >= 64 ? ~Bits(0) : (Bits(1) << count) - 1; }

    // ---- what numbers alone say, for tiles of rows

    struct Numbers {
        Bits possible[PARTS], certain[PARTS];
    };
    template <class Loop>
    static void ask_numbers(const Grid& grid, int64_t row, int64_t last, int64_t from, int64_t to, Numbers& out) {
        const int tiles = int((to - from + TILE - 1) / TILE);
        const auto all = ask<Loop, Loop::TABLES == 0>(grid, row, last);
        const bool any = all.possible(from, to - 1), every = Loop::TABLES && any && all.certain(from, to - 1);
        for (int part = 0; row <= last; part++, row += TILE) {
            out.possible[part] = any ? below(tiles) : 0;
            out.certain[part] = every ? below(tiles) : 0;
            if (!any || every || Loop::TABLES == 0) continue;
            const auto some = ask<Loop, false>(grid, row, row + TILE - 1 < last ? row + TILE - 1 : last);
            for (int t = 0; t < tiles; t++) {
                const int64_t x = from + t * TILE, y = x + TILE < to ? x + TILE : to;
                if (!some.possible(x, y - 1)) out.possible[part] &= ~(Bits(1) << t);
                else if (some.certain(x, y - 1)) out.certain[part] |= Bits(1) << t;
            }
        }
    }

    // ---- what tables say, for one row

    struct Places {  // the entries of a table for the tiles of a window
        int64_t at[TILES], step[TILES], count[TILES];
        Bits known;
        bool single, line;  // an entry a tile; one behind the other
    };
    template <class Loop, int T>
    static void find_places(const Grid& grid, int64_t from, int64_t to, Places& out) {
        const int tiles = int((to - from + TILE - 1) / TILE);
        out.known = 0;
        out.single = out.line = true;
        for (int t = 0; t < tiles; t++) {
            const int64_t x = Loop::start(grid) + from + t * TILE, end = Loop::start(grid) + to, y = x + TILE < end ? x + TILE : end;
            const Entries found = Loop::template walked_entries<T>(grid, Bound::within(x), Bound::within(y - 1));
            const bool known = found.known && found.count <= ENTRIES;
            out.at[t] = known ? found.offset : 0;
            out.step[t] = found.step;
            out.count[t] = known ? found.count : 1;
            out.known |= Bits(known) << t;
            out.single &= out.count[t] == 1;
            out.line &= known && found.count == 1 && out.at[t] == out.at[0] + t;
        }
    }
    // Which tiles have an entry that is true, which have true ones alone.
    static void read_row(const bool* row, const Places& places, int tiles, Bits& some, Bits& every) {
        Bits any = 0, all = 0;
        if (!places.known) {
        } else if (places.single) {
            int t = 0;
            for (; places.line && t + 8 <= tiles; t += 8) {  // bytes that are 0 or 1: a product gathers their bits
                uint64_t word;
                std::memcpy(&word, row + places.at[t], sizeof word);
                any |= word * 0x0102040810204080 >> 56 << t;
            }
            for (; t < tiles; t++) any |= Bits(row[places.at[t]]) << t;
            all = any;
        } else {
            for (int t = 0; t < tiles; t++) {
                bool one = false, both = true;
                for (int n = 0; n < places.count[t]; n++) {
                    const bool entry = row[places.at[t] + n * places.step[t]];
                    one |= entry;
                    both &= entry;
                }
                any |= Bits(one) << t;
                all |= Bits(both) << t;
            }
        }
        some &= any | ~places.known;
        every &= all & places.known;
    }

    // ---- a window

    template <class Loop>
    static void look(Desk& desk, int64_t from, int64_t to) {
        std::memset(desk.seen->bunches, 0, sizeof desk.seen->bunches);
        for (int first = 0; first < desk.abreast; first++) look_abreast<Loop>(desk, first, from, to);
    }
    // The bunches of one grid instance.
    template <class Loop>
    static void look_abreast(Desk& desk, int first, int64_t from, int64_t to) {
        const Grid& grid = desk.grids[desk.bunch[first]];
        const int tiles = int((to - from + TILE - 1) / TILE);
        Numbers numbers;
        Places places[Loop::TABLES + 1];
        ask_numbers<Loop>(grid, desk.row[0], desk.row[desk.slots - 1], from, to, numbers);
        for_each<Loop::TABLES>([&](auto place) { find_places<Loop, decltype(place)::value>(grid, from, to, places[decltype(place)::value]); });
        const auto entries = [&](auto table, int bunch) {  // where a row of a table begins
            const Bound held = Bound::within(K::start(grid) + desk.row[desk.bunch[bunch]]);
            const Entries at = Loop::template held_entries<decltype(table)::value>(grid, held, held);
            const bool* whole = Loop::template table<decltype(table)::value>(grid);
            return whole && at.known && at.count == 1 ? whole + at.offset : nullptr;
        };
        for (int bunch = first; bunch < desk.bunches; bunch += desk.abreast) {
            const int64_t row = desk.row[desk.bunch[bunch]], part = (row - desk.row[0]) / TILE;
            const int ahead = bunch + ROWS_AHEAD * desk.abreast;
            Bits some = numbers.possible[part];
            if (!some) continue;
            Bits whole = Loop::TABLES ? below(tiles) : 0;  // as far as tables say
            for_each<Loop::TABLES>([&](auto place) {
                constexpr int T = decltype(place)::value;
                const bool* next = ahead < desk.bunches ? entries(place, ahead) : nullptr;
                if (next) __builtin_prefetch(next + places[T].at[0]);
                if (const bool* at = entries(place, bunch)) read_row(at, places[T], tiles, some, whole);
                else whole = 0;
            });
            for (int64_t x = from; !whole && x < to; x += GLANCE)
                if (!ask<Loop, true>(grid, row, row).possible(x, (x + GLANCE < to ? x + GLANCE : to) - 1)) some &= ~(below(GLANCE / TILE) << (x - from) / TILE);
            for (Bits left = some; left; left &= left - 1) {
                const int t = __builtin_ctzll(left), strip = t * (TILE / STRIP);
                const int64_t x = from + t * TILE, y = x + TILE < to ? x + TILE : to;
                if (!(whole >> t & 1)) {
                    const auto all = ask<Loop, true>(grid, row, row);
                    if (all.possible(x, y - 1)) divide(*desk.seen, bunch, all, strip, x, y);
                } else if (numbers.certain[part] >> t & 1) {
                    note(*desk.seen, bunch, strip, int(y - x));
                } else {
                    divide(*desk.seen, bunch, ask<Loop, false>(grid, row, row), strip, x, y);
                }
            }
        }
    }
};

}  // namespace attnc
