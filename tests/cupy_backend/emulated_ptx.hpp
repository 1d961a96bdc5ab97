// The instructions of tensor cores on a CPU, as the PTX ISA documents them ("Warp-level matrix
// instructions", the fragments of mma.m16n8k8 and mma.m16n8k16): every lane puts the elements of
// its registers where they belong in the matrices, and takes its own of the products. Nothing here
// knows how the registers were filled.

namespace ptx {

struct Matrices {
    float a[16][16], b[16][8];
    const unsigned* rows[32];
};
static Matrices warps[emulator::MOST / 32];

static Matrices& own_warp() { return warps[emulator::current / 32]; }
static int group_id() { return emulator::current % 32 >> 2; }
static int id_in_group() { return emulator::current % 32 % 4; }

static float from_f16(unsigned bits) { return half_value((unsigned short)bits); }
static float from_bf16(unsigned bits) { return __int_as_float(int(bits << 16)); }
// What tensor cores do with the bits that TF32 doesn't have is not documented.
static float from_tf32(unsigned bits) { return bits & 0x1fff ? NAN : __int_as_float(int(bits)); }

// Sums when every lane of the warp has placed its elements; the next product waits for all.
static void sum(float (&c)[4], int depth) {
    emulator::wait_for_warp();
    const Matrices& own = own_warp();
    for (int i = 0; i < 4; i++) {
        const int row = i < 2 ? group_id() : group_id() + 8, column = id_in_group() * 2 + (i & 1);
        double total = c[i];
        for (int k = 0; k < depth; k++) total += double(own.a[row][k]) * own.b[k][column];
        c[i] = float(total);
    }
    emulator::wait_for_warp();
}

template <float (*decoded)(unsigned)>
static void m16n8k16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    for (int i = 0; i < 8; i++) {
        const int row = i < 2 || (4 <= i && i < 6) ? group_id() : group_id() + 8;
        const int column = id_in_group() * 2 + (i & 1) + (i < 4 ? 0 : 8);
        own_warp().a[row][column] = decoded(a[i / 2] >> i % 2 * 16 & 0xffff);
    }
    for (int i = 0; i < 4; i++) {
        const int row = id_in_group() * 2 + (i & 1) + (i < 2 ? 0 : 8);
        own_warp().b[row][group_id()] = decoded(b[i / 2] >> i % 2 * 16 & 0xffff);
    }
    sum(c, 16);
}

static void m16n8k16_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    m16n8k16<from_f16>(c, a, b);
}
static void m16n8k16_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    m16n8k16<from_bf16>(c, a, b);
}

static void m16n8k8_f16(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
    const unsigned a[2] = {a0, a1};
    for (int i = 0; i < 4; i++) {
        const int row = i < 2 ? group_id() : group_id() + 8;
        own_warp().a[row][id_in_group() * 2 + (i & 1)] = from_f16(a[i / 2] >> i % 2 * 16 & 0xffff);
    }
    for (int i = 0; i < 2; i++) {
        own_warp().b[id_in_group() * 2 + i][group_id()] = from_f16(b >> i * 16 & 0xffff);
    }
    sum(c, 8);
}

static void m16n8k8_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    for (int i = 0; i < 4; i++) {
        const int row = i == 0 || i == 2 ? group_id() : group_id() + 8;
        own_warp().a[row][i < 2 ? id_in_group() : id_in_group() + 4] = from_tf32(a[i]);
    }
    for (int i = 0; i < 2; i++) {
        own_warp().b[i == 0 ? id_in_group() : id_in_group() + 4][group_id()] = from_tf32(b[i]);
    }
    sum(c, 8);
}

// A row that does not begin at a multiple of 16 bytes gives no numbers.
static void ldmatrix_x4(unsigned (&to)[4], const unsigned* row) {
    own_warp().rows[emulator::current % 32] = row;
    emulator::wait_for_warp();
    for (int i = 0; i < 4; i++) {
        const unsigned* from = own_warp().rows[8 * i + group_id()];
        to[i] = reinterpret_cast<size_t>(from) % 16 ? ~0u : from[id_in_group()];
    }
    emulator::wait_for_warp();
}

// To the nearest, of two as near away from 0; numbers that are none stay so.
static unsigned to_tf32(float x) {
    const unsigned bits = unsigned(__float_as_int(x));
    return ((bits & 0x7f800000u) == 0x7f800000u ? bits | (bits & 0x1fff ? 0x400000 : 0)
                                                : bits + 0x1000) & ~0x1fffu;
}

static unsigned bf16_bits(float x) {
    const unsigned bits = unsigned(__float_as_int(x));
    if (x != x) return 0x7fff;
    const unsigned rest = bits & 0xffff, last = bits >> 16 & 1;
    return (bits >> 16) + (rest > 0x8000 || (rest == 0x8000 && last) ? 1 : 0);
}
static unsigned to_bf16x2(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

}  // namespace ptx
