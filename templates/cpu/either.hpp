// The form that a call wants, of those that one printed class of pairs has: by shapes and data.
#pragma once
#include "scattered.hpp"

namespace attnc {

// A kernel of the form that a call wants. What runs along the walk has tiles of rows alone.
template <class K>
struct Either {
    static int64_t bytes(const Call& call) {
        if (!K::grid_count(call)) return 0;
        if constexpr (K::RUNNING_MOST > 0) {
            return Stream<K>::bytes(call);
        } else {
            typename K::Grid probe;
            K::enter(call, 0, probe);
            int64_t more = Few<K>::fits(probe) ? Few<K>::bytes(call, probe) : 0;
            if constexpr (K::BY_ROW) more = more > Scattered<K>::bytes(call) ? more : Scattered<K>::bytes(call);
            return Stream<K>::bytes(call) + more;
        }
    }
    static bool run(const Call& call, char* scratch) {
        if (!K::grid_count(call)) return false;
        if constexpr (K::RUNNING_MOST > 0) return Stream<K>::run(call, scratch);
        else return run_either(call, scratch);
    }
    static bool run_either(const Call& call, char* scratch) {
        typename K::Grid probe;
        K::enter(call, 0, probe);
        const bool few = Few<K>::fits(probe);
        if (K::IDLES || !(few || K::BY_ROW)) return Stream<K>::run(call, scratch);
        Arena common{scratch};
        typename K::Shared shared;
        Stream<K>::make_summaries(call, shared, common, false);
        char* rest = scratch + Stream<K>::bytes(call);
        if (few) {
            Few<K>::run(call, shared, rest, scratch + round_up(common.used, 64));
            return true;
        }
        if constexpr (K::BY_ROW)
            if (Scattered<K>::fits(call, shared)) {
                Scattered<K>::run(call, shared, rest);
                return true;
            }
        return Stream<K>::run(call, scratch);
    }
};

}  // namespace attnc
