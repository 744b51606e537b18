// The C ABI of a kernel, and what every kernel shares: element types, views of tensors, threads.
//
// Compile time (macros)
//   ATTNC_ELEMENT     element type of queries, keys, values and results: float, double, bf16, f16
//   ATTNC_ISA         0 generic, 2 AVX2 (FMA, F16C), 3 AVX-512, 4 AVX-512 with bf16 products, 5 with
//                     AMX, 6 with AMX emulated (amx_emulated.hpp)
//   ATTNC_WIDE        1: integers of pairs in 64 bits; 0: in 32, where the call's bounds prove it
//   ATTNC_WIDTH_<x>   length of axis x (a width);  ATTNC_TYPE_<t>  element type of tensor t
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#if ATTNC_ISA >= 2
#include <immintrin.h>
#endif

#ifdef __OPTIMIZE__
#define ATTNC_INLINE inline __attribute__((always_inline))
#else  // a build in a hurry: inlining would be a quarter of it
#define ATTNC_INLINE inline
#endif
#define ATTNC_UNROLL _Pragma("GCC unroll 16")

extern "C" {
struct Tensor {
    void* data;
    int64_t size[8];
    int64_t stride[8];  // in elements; 0 and negative are legal
};
struct Call {
    const Tensor* tensors;
    const int64_t* integers;
    const double* reals;
    int64_t threads;
    int64_t seed;
    void* workspace;  // 64-byte aligned
    int64_t workspace_bytes;
    int64_t* too_wide;  // set to 1 where an integer read from a tensor does not fit 32-bit lanes
};
}

namespace attnc {

enum Status { DONE = 0, NEEDS_WIDE = 2, NEEDS_WORKSPACE = 3 };

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

using Element = ATTNC_ELEMENT;
using Acc = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// ---- scalar conversions: every floating type to and from the accumulation type

ATTNC_INLINE float bits_to_float(uint32_t bits) {
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}
ATTNC_INLINE uint32_t float_to_bits(float x) {
    uint32_t out;
    std::memcpy(&out, &x, 4);
    return out;
}
ATTNC_INLINE float widen(bf16 x) { return bits_to_float(uint32_t(x.bits) << 16); }
ATTNC_INLINE float widen(f16 x) {
#if ATTNC_ISA >= 2
    return _cvtsh_ss(x.bits);
#else
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    if (rest >= 0x7c00) return bits_to_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13));
    if (rest >= 0x400) return bits_to_float(sign | ((rest << 13) + 0x38000000));
    const float small = float(rest) * 5.9604644775390625e-8f;  // subnormal: units of 2^-24
    return sign ? -small : small;
#endif
}
ATTNC_INLINE float widen(float x) { return x; }
ATTNC_INLINE double widen(double x) { return x; }

template <class To, class From>
ATTNC_INLINE To narrow(From x) {
    return To(x);
}
template <>
ATTNC_INLINE bf16 narrow<bf16, float>(float x) {  // to nearest, ties to even; NaN stays NaN
    const uint32_t bits = float_to_bits(x);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
ATTNC_INLINE bf16 narrow<bf16, double>(double x) {
    return narrow<bf16>(float(x));
}
template <>
ATTNC_INLINE f16 narrow<f16, float>(float x) {
#if ATTNC_ISA >= 2
    return {uint16_t(_cvtss_sh(x, 0))};
#else
    const uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000;
    const uint32_t rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (rest >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
    if (rest < 0x38800000) {  // subnormal: adding 0.5 rounds to units of 2^-24
        const float shifted = bits_to_float(rest) + 0.5f;
        return {uint16_t(sign | (float_to_bits(shifted) - 0x3f000000))};
    }
    return {uint16_t(sign | ((rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13))};
#endif
}
template <>
ATTNC_INLINE f16 narrow<f16, double>(double x) {
    return narrow<f16>(float(x));
}

// ---- rows of a tensor: base + row * row_stride + column * step

template <class T>
struct Rows {
    const T* data;
    int64_t stride;
    int64_t step;
    const T* row(int64_t r) const { return data + r * stride; }
};

// ---- threads: body(worker) on each of them; one thread never touches the pool

template <class Body>
void parallel(int64_t threads, const Body& body) {
    if (threads <= 1) {
        body(int64_t(0));
        return;
    }
    int64_t next = 0;
#pragma omp parallel num_threads(int(threads))
    { body(__atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)); }
}

// No more threads than find enough to do: to wake one takes as long as some 2^18 multiply-adds, and
// far longer where it does not get a processor at once.
inline int64_t threads_for(int64_t threads, double multiply_adds) {
    const double most = 1 + multiply_adds / (1 << 18);
    return most < double(threads) ? int64_t(most) : threads;
}

// Tasks in order of their number, each taken by the next free worker: task(worker, number).
template <class Task>
void parallel_tasks(int64_t threads, int64_t count, const Task& task) {
    if (count <= 0) return;
    int64_t next = 0;
    parallel(threads < count ? threads : count, [&](int64_t worker) {
        for (;;) {
            const int64_t number = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
            if (number >= count) return;
            task(worker, number);
        }
    });
}

ATTNC_INLINE int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// A bump allocator over the caller's workspace; with no base it only counts.
struct Arena {
    char* base;
    int64_t used = 0;
    template <class T>
    T* take(int64_t count) {
        T* out = base ? reinterpret_cast<T*>(base + used) : nullptr;
        used += round_up(count * int64_t(sizeof(T)), 64);
        return out;
    }
};

// An array of a workspace: its memory, sizes and strides.
template <class T>
void place(Arena& arena, Tensor& tensor, std::initializer_list<int64_t> sizes) {
    int64_t count = 1, axis = int64_t(sizes.size());
    for (int64_t size : sizes) count *= size;
    tensor.data = arena.template take<T>(count);
    for (auto size = sizes.end(); size != sizes.begin();) {
        --size, --axis;
        tensor.size[axis] = *size;
        tensor.stride[axis] = axis + 1 == int64_t(sizes.size()) ? 1 : tensor.stride[axis + 1] * tensor.size[axis + 1];
    }
}

// The same for an array that `output` sums along axes which are `alone`, of one place each: it lies in the
// output where that has its type and form (axis n of the output is `axes[n]` of the array). Whether it does.
template <class T, class Given>
bool place_in(Arena& arena, Tensor& tensor, std::initializer_list<int64_t> sizes, const Tensor& output,
              std::initializer_list<int> axes, bool alone) {
    if (std::is_same_v<T, Given> && alone) {
        Arena none{nullptr};
        place<T>(none, tensor, sizes);
        int64_t whole = 1, met = 1, place = 0;
        for (int64_t size : sizes) whole *= size;
        for (int axis : axes) {
            met *= tensor.size[axis];
            alone &= output.size[place] == tensor.size[axis] && output.stride[place] == tensor.stride[axis];
            place++;
        }
        tensor.data = output.data;
        if (alone && met == whole) return true;
    }
    place<T>(arena, tensor, sizes);
    return false;
}

// The strides of a tensor in the order of its axes.
template <class... Strides>
ATTNC_INLINE void strides_of(const Tensor& tensor, Strides&... strides) {
    const int64_t* next = tensor.stride;
    ((strides = *next++), ...);
}

}  // namespace attnc
