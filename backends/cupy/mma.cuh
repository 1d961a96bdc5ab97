// Products of small matrices by a warp's tensor cores: mma.sync and ldmatrix of the PTX ISA.
//
// Factors lie in words of 32 bits: two neighbours along k of f16 or bf16, or one of tf32. Seen so,
// all types have one layout. Of 16 rows x 8 columns of sums, and factors of 8 words along k, a lane
// holds, with g = lane / 4 and t = lane % 4:
//
//     left     words t and t + 4 of rows g and g + 8       4 registers
//     right    words t and t + 4 of column g               2 registers
//     sums     columns 2t and 2t + 1 of rows g and g + 8   4 registers
#pragma once

// The emulator says for which GPU it stands.
#ifdef __CUDA_ARCH__
#define WEFT_ARCH __CUDA_ARCH__
#endif

// Single instructions, of which the emulator has its own.
#ifdef __CUDA_ARCH__
namespace ptx {

DEVICE unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

DEVICE unsigned to_bf16x2(float low, float high) {
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// Four matrices of 8 rows of 16 bytes; lane l gives the address of row l % 8 of matrix l / 8, and
// gets word l % 4 of row l / 4 of each.
DEVICE void ldmatrix_x4(unsigned (&to)[4], const unsigned* row) {
    asm volatile(
        "{\n"
        ".reg .u64 place;\n"
        "cvta.to.shared.u64 place, %4;\n"
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [place];\n"
        "}\n"
        : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
        : "l"(row)
        : "memory");
}

#define WEFT_MMA(name, shape, type)                                                            \
    DEVICE void name(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {          \
        asm volatile(                                                                          \
            "mma.sync.aligned." shape ".row.col.f32." type "." type ".f32 "                    \
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                  \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                   \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));               \
    }
WEFT_MMA(m16n8k16_f16, "m16n8k16", "f16")
WEFT_MMA(m16n8k16_bf16, "m16n8k16", "bf16")
WEFT_MMA(m16n8k8_tf32, "m16n8k8", "tf32")

DEVICE void m16n8k8_f16(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

}  // namespace ptx
#endif

// An f32 as tensor cores take it: rounded to 10 bits after the point, of two as near away from 0.
struct tf32 {
    unsigned bits;
    DEVICE tf32(float x) : bits(ptx::to_tf32(x)) {}
};

namespace mma {

// Whether the target has tensor cores for these factors.
template <class F> constexpr bool exist = false;
template <> constexpr bool exist<f16> = WEFT_ARCH >= 750;
template <> constexpr bool exist<bf16> = WEFT_ARCH >= 800;
template <> constexpr bool exist<tf32> = WEFT_ARCH >= 800;

template <class F> constexpr int per_word = 4 / sizeof(F);

// A word of factors that are known as f32: of one of tf32, of two of others.
template <class F> DEVICE unsigned word(float low, float high) {
    if constexpr (same<F, bf16>) return ptx::to_bf16x2(low, high);
    else return F(low).bits | unsigned(F(high).bits) << 16;
}
template <class F> DEVICE unsigned word(float only) { return F(only).bits; }

// 8 words of each of 16 rows that are `step` words apart: the left factor, or the right factors of
// 2 x 8 columns, where registers 0 and 2 are those of the first 8.
DEVICE void load(unsigned (&to)[4], const unsigned* from, int step) {
    const int lane = threadIdx.x % 32;
    ptx::ldmatrix_x4(to, from + lane % 16 * step + lane / 16 * 4);
}

// The products of 8 words added to the sums.
template <class F>
DEVICE void multiply(float (&sums)[4], const unsigned (&left)[4], const unsigned (&right)[2]) {
    if constexpr (same<F, tf32>) {
        ptx::m16n8k8_tf32(sums, left, right);
    } else if constexpr (same<F, bf16>) {
        ptx::m16n8k16_bf16(sums, left, right);
    } else if constexpr (WEFT_ARCH >= 800) {
        ptx::m16n8k16_f16(sums, left, right);
    } else {
        ptx::m16n8k8_f16(sums, left[0], left[1], right[0]);
        ptx::m16n8k8_f16(sums, left[2], left[3], right[1]);
    }
}

}  // namespace mma
