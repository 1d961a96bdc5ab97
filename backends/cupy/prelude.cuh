// What every generated kernel may use: the elementwise ops of Weft for one element, and Philox.
//
// The meaning is NumPy's. Functions are those of CUDA's mathematics, none of them the fast ones;
// errors in units of the last place, f32 / f64, from the CUDA C++ programming guide:
//
//   exp 2/1   expm1 1/1   log 1/1   log1p 1/1   sin 2/2   cos 2/2   tanh 2/1   erf 2/2   pow 4/2
//   sqrt 0/0 and divide 0/0: rounded correctly; logistic and rsqrt are made of these
#pragma once

#define DEVICE __device__ __forceinline__

// -- floats of 16 bits ----------------------------------------------------------------------------

// They are kept in memory and computed as `float`. What becomes one is rounded to the nearest, of
// two as near to the even one; a NaN stays one.
#ifdef __CUDA_ARCH__
DEVICE unsigned short half_bits(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
DEVICE float half_value(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#endif

struct f16 {
    unsigned short bits;
    f16() = default;
    DEVICE f16(float x) : bits(half_bits(x)) {}
    DEVICE operator float() const { return half_value(bits); }
};

struct bf16 {
    unsigned short bits;
    bf16() = default;
    DEVICE bf16(float x) {
        const unsigned word = unsigned(__float_as_int(x));
        const bool odd = (word & 0x7fffffffu) > 0x7f800000u;
        bits = (unsigned short)(odd ? word >> 16 | 0x40 : (word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
    DEVICE operator float() const { return __int_as_float(int(unsigned(bits) << 16)); }
};

template <class T> constexpr bool is_narrow = false;
template <> constexpr bool is_narrow<f16> = true;
template <> constexpr bool is_narrow<bf16> = true;

template <class T> struct Type;
#define WEFT_TYPE(T, W, REAL, SIGNED)            \
    template <> struct Type<T> {                 \
        using Word = W; /* unsigned, as wide */  \
        static constexpr bool real = REAL;       \
        static constexpr bool has_sign = SIGNED; \
        static constexpr int bits = 8 * sizeof(T); \
    };
WEFT_TYPE(bool, unsigned char, false, false)
WEFT_TYPE(signed char, unsigned char, false, true)
WEFT_TYPE(unsigned char, unsigned char, false, false)
WEFT_TYPE(int, unsigned, false, true)
WEFT_TYPE(unsigned, unsigned, false, false)
WEFT_TYPE(long long, unsigned long long, false, true)
WEFT_TYPE(unsigned long long, unsigned long long, false, false)
WEFT_TYPE(float, unsigned, true, true)
WEFT_TYPE(double, unsigned long long, true, true)

template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;

// N neighbours in memory, read and written at once.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
};

template <int N, class T> DEVICE Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T> DEVICE void store(T* to, const Pack<T, N>& value) {
    *reinterpret_cast<Pack<T, N>*>(to) = value;
}

namespace op {

template <class T> DEVICE T infinity();
template <> DEVICE float infinity<float>() { return __int_as_float(0x7f800000); }
template <> DEVICE double infinity<double>() { return __longlong_as_double(0x7ff0000000000000LL); }
template <class T> DEVICE T not_a_number();
template <> DEVICE float not_a_number<float>() { return __int_as_float(0x7fc00000); }
template <> DEVICE double not_a_number<double>() {
    return __longlong_as_double(0x7ff8000000000000LL);
}

// -- functions ------------------------------------------------------------------------------------

#define WEFT_FUNCTION(name, single, wide)                       \
    DEVICE float name(float x) { return single(x); }            \
    DEVICE double name(double x) { return wide(x); }
WEFT_FUNCTION(floor, ::floorf, ::floor)
WEFT_FUNCTION(ceil, ::ceilf, ::ceil)
WEFT_FUNCTION(round, ::rintf, ::rint)
WEFT_FUNCTION(exp, ::expf, ::exp)
WEFT_FUNCTION(expm1, ::expm1f, ::expm1)
WEFT_FUNCTION(log, ::logf, ::log)
WEFT_FUNCTION(log1p, ::log1pf, ::log1p)
WEFT_FUNCTION(sqrt, ::sqrtf, ::sqrt)
WEFT_FUNCTION(sin, ::sinf, ::sin)
WEFT_FUNCTION(cos, ::cosf, ::cos)
WEFT_FUNCTION(tanh, ::tanhf, ::tanh)
WEFT_FUNCTION(erf, ::erff, ::erf)
WEFT_FUNCTION(magnitude, ::fabsf, ::fabs)

DEVICE float power(float x, float y) { return ::powf(x, y); }
DEVICE double power(double x, double y) { return ::pow(x, y); }
DEVICE float truncated_rest(float x, float y) { return ::fmodf(x, y); }
DEVICE double truncated_rest(double x, double y) { return ::fmod(x, y); }
DEVICE float with_sign(float x, float y) { return ::copysignf(x, y); }
DEVICE double with_sign(double x, double y) { return ::copysign(x, y); }

template <class T> DEVICE T rsqrt(T x) { return T(1) / sqrt(x); }

// 1 / (1 + exp(-x)), where exp never overflows.
template <class T> DEVICE T logistic(T x) {
    const T small = exp(-magnitude(x));
    return (x >= T(0) ? T(1) : small) / (T(1) + small);
}

template <class T> DEVICE bool is_finite(T x) { return magnitude(x) < infinity<T>(); }

// -- arithmetic: integers wrap --------------------------------------------------------------------

#define WEFT_WRAPPING(name, sign)                                      \
    template <class T> DEVICE T name(T x, T y) {                       \
        if constexpr (Type<T>::real) return x sign y;                  \
        else {                                                         \
            using Word = typename Type<T>::Word;                       \
            return T(Word(Word(x) sign Word(y)));                      \
        }                                                              \
    }
WEFT_WRAPPING(add, +)
WEFT_WRAPPING(subtract, -)
WEFT_WRAPPING(multiply, *)

template <class T> DEVICE T divide(T x, T y) { return x / y; }

template <class T> DEVICE T negate(T x) {
    if constexpr (Type<T>::real) return -x;
    else return subtract(T(0), x);
}

template <class T> DEVICE T abs(T x) {
    if constexpr (Type<T>::real) return magnitude(x);
    else return x < T(0) ? negate(x) : x;
}

template <class T> DEVICE T sign(T x) {
    if constexpr (Type<T>::real) {
        if (x != x) return x;
    }
    return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
}

// NaN wins.
template <class T> DEVICE T maximum(T x, T y) { return x > y || x != x ? x : y; }
template <class T> DEVICE T minimum(T x, T y) { return x < y || x != x ? x : y; }

// Rounded down; 0 for the divisor 0.
template <class T> DEVICE T floor_divide(T x, T y) {
    if (y == T(0)) return T(0);
    if constexpr (Type<T>::has_sign) {
        if (y == T(-1)) return negate(x);
    }
    const T quotient = T(x / y);
    return x % y != 0 && (x < T(0)) != (y < T(0)) ? T(quotient - 1) : quotient;
}

// Of the divisor's sign; 0 for an integer divisor 0.
template <class T> DEVICE T remainder(T x, T y) {
    if constexpr (Type<T>::real) {
        const T rest = truncated_rest(x, y);
        if (rest == T(0)) return with_sign(T(0), y);
        return (rest < T(0)) != (y < T(0)) ? rest + y : rest;
    } else {
        return subtract(x, multiply(floor_divide(x, y), y)) * T(y != T(0));
    }
}

// -- bits and types -------------------------------------------------------------------------------

template <class T> DEVICE T both(T x, T y) { return T(x & y); }
template <class T> DEVICE T either(T x, T y) { return T(x | y); }
template <class T> DEVICE T differ(T x, T y) { return T(x ^ y); }
template <class T> DEVICE T invert(T x) { return T(~x); }
template <> DEVICE bool invert(bool x) { return !x; }

// Zeros come in from either side; a shift by the width or more, or by less than 0, gives 0.
template <class T> DEVICE T shift_left(T x, T y) {
    using Word = typename Type<T>::Word;
    return Word(y) < Type<T>::bits ? T(Word(Word(x) << Word(y))) : T(0);
}
template <class T> DEVICE T shift_right(T x, T y) {
    using Word = typename Type<T>::Word;
    return Word(y) < Type<T>::bits ? T(Word(Word(x) >> Word(y))) : T(0);
}

template <class F> DEVICE int to_int(F x) {
    const bool inside = x < F(2147483648.0) &&
        (sizeof(F) == 8 ? x > F(-2147483649.0) : x >= F(-2147483648.0));
    return inside ? int(x) : -2147483647 - 1;
}

template <class F> DEVICE long long to_long(F x) {
    const F end = F(9223372036854775808.0);
    return x >= -end && x < end ? (long long)(x) : -9223372036854775807LL - 1;
}

// Floats truncate. Out of an integer's range they give what NumPy gives on x86: i32 and i64 the
// smallest number, shorter types the low bits of that i32, u32 those of the i64, and u64 starts
// i64 again at 2^63.
template <class To, class From> DEVICE To cast(From x) {
    if constexpr (is_narrow<From>) {
        return cast<To>(float(x));
    } else if constexpr (is_narrow<To>) {
        return To(float(x));
    } else if constexpr (same<To, bool>) {
        return x != From(0);
    } else if constexpr (Type<From>::real && !Type<To>::real) {
        if constexpr (sizeof(To) == 8 && !Type<To>::has_sign) {
            const From half = From(9223372036854775808.0);
            if (x >= half) return To(to_long(x - half)) ^ (To(1) << 63);
            return To(to_long(x));
        } else if constexpr (sizeof(To) == 8 || (sizeof(To) == 4 && !Type<To>::has_sign)) {
            return To(to_long(x));
        } else {
            return To(to_int(x));
        }
    } else {
        return To(x);
    }
}

}  // namespace op

// A position read from data, clamped to 0 .. limit - 1.
template <class T> DEVICE long long clamped(T index, long long limit) {
    if constexpr (Type<T>::has_sign) {
        if (index < T(0)) return 0;
    }
    return (unsigned long long)(index) < (unsigned long long)(limit) ? (long long)(index) : limit - 1;
}

// -- random bits: Philox4x32-10 -------------------------------------------------------------------

using Words = Pack<unsigned, 4>;

// The words at positions 4 block .. 4 block + 3 of a stream.
DEVICE Words philox(
    unsigned low, unsigned high, unsigned step, unsigned first, unsigned second, unsigned block
) {
    unsigned c0 = block, c1 = step, c2 = first, c3 = second;
#pragma unroll
    for (int turn = 0; turn < 10; turn++) {
        const unsigned long long p0 = 0xD2511F53ULL * c0, p1 = 0xCD9E8D57ULL * c2;
        c0 = unsigned(p1 >> 32) ^ c1 ^ low;
        c1 = unsigned(p1);
        c2 = unsigned(p0 >> 32) ^ c3 ^ high;
        c3 = unsigned(p0);
        low += 0x9E3779B9u;
        high += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

DEVICE unsigned random_word(
    unsigned low, unsigned high, unsigned step, unsigned first, unsigned second, long long position
) {
    const Words words = philox(low, high, step, first, second, unsigned(position >> 2));
    const int lane = int(position & 3);
    return lane < 2 ? (lane == 0 ? words.at[0] : words.at[1])
                    : (lane == 2 ? words.at[2] : words.at[3]);
}
