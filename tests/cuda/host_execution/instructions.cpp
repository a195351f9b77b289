#include "instructions.h"

#include "kernels/launch.h"
#include "sanitizers.h"
#include "wgmma.h"

#include <cstring>

namespace kerneldna::cuda::host_execution {
namespace {

// Four numbers at once, which the baseline of x86-64 has registers for.
typedef uint32_t Words __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));

// __half2float, four at a time, each in the low bits of a word.
Floats half_to_float(Words bits) {
  const Words magnitude = (bits & 0x7fff) << 13;
  const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Floats>(magnitude) * 0x1p112f);
  const Words not_finite = reinterpret_cast<Words>(magnitude >= 0x0f800000) & 0x7f800000;
  return reinterpret_cast<Floats>((bits & 0x8000) << 16 | scaled | not_finite);
}

// The numbers with even and with odd column in four registers of a fragment.
struct Columns {
  Floats even, odd;
};
Columns columns_of(Operand operand, Words pairs) {
  if (operand == Operand::f16)
    return {half_to_float(pairs & 0xffff), half_to_float(pairs >> 16)};
  return {reinterpret_cast<Floats>(pairs << 16), reinterpret_cast<Floats>(pairs & 0xffff0000)};
}

// The operands as matrices of float, by the layouts that kernels/ptx.h describes, and their product.
struct Matrices {
  alignas(16) float a[16][16]; // [row][depth]
  alignas(16) float b[8][16];  // [column][depth]

  void gather(Operand operand, const Exchange &operands) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int g = lane / 4, t = lane % 4;
      Words registers[2];
      std::memcpy(registers, operands.words[lane], sizeof(registers));
      const Columns ofA = columns_of(operand, registers[0]), ofB = columns_of(operand, registers[1]);
      for (int odd = 0; odd < 2; ++odd) {
        const Floats &from_a = odd ? ofA.odd : ofA.even, &from_b = odd ? ofB.odd : ofB.even;
        for (int i = 0; i < 4; ++i)
          a[g + i % 2 * 8][2 * t + odd + i / 2 * 8] = from_a[i];
        for (int i = 0; i < 2; ++i)
          b[g][2 * t + odd + i * 8] = from_b[i];
      }
    }
  }

  void multiply(float (&product)[16][8]) const {
    Floats by_depth[16][2]; // b transposed
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column)
        by_depth[k][column / 4][column % 4] = b[column][k];
    for (int row = 0; row < 16; ++row) {
      Floats sum[2] = {};
      for (int k = 0; k < 16; ++k)
        for (int half = 0; half < 2; ++half)
          sum[half] += a[row][k] * by_depth[k][half];
      std::memcpy(product[row], sum, sizeof(sum));
    }
  }
};

} // namespace

void check_mask(const char *instruction, unsigned mask) {
  if (mask != 0xffffffff)
    fail(instruction, ": the mask names lanes 0x", std::hex, mask, ", where kernels of this project name all 32");
}

void shuffle(const char *instruction, unsigned mask, void *value, size_t bytes, int source) {
  Unobserved own;
  check_mask(instruction, mask);
  Exchange &operands = exchange();
  std::memcpy(operands.words[lane_index()], value, bytes);
  meet(instruction);
  std::memcpy(value, operands.words[source], bytes);
}

void trap() { fail("__trap"); }

void ldmatrix(uint32_t (&r)[4], const void *row) {
  const int lane = lane_index();
  const void *rows[4]; // of which this lane reads
  {
    Unobserved own;
    const auto offset = static_cast<const std::byte *>(row) - shared_memory();
    if (offset < 0 || offset + 16 > static_cast<ptrdiff_t>(shared_bytes()))
      fail("ldmatrix: the row is ", offset, " bytes into the shared memory, of which there are ", shared_bytes());
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
      fail("ldmatrix: the row is not aligned to 16 bytes");
    Exchange &operands = exchange();
    operands.rows[lane] = row;
    products().note_write();
    meet("ldmatrix");
    for (int m = 0; m < 4; ++m)
      rows[m] = operands.rows[8 * m + lane / 4];
  }
  for (int m = 0; m < 4; ++m)
    std::memcpy(&r[m], static_cast<const uint32_t *>(rows[m]) + lane % 4, sizeof(r[m]));
}

void mma(Operand operand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static constexpr const char *kNames[] = {"mma of float16", "mma of bfloat16"};
  Unobserved own;
  Exchange &operands = exchange();
  const int lane = lane_index();
  uint32_t *words = operands.words[lane];
  std::memcpy(words, a, sizeof(a));
  words[4] = b0;
  words[5] = b1;
  if (meet(kNames[static_cast<int>(operand)])) {
    Matrices matrices;
    matrices.gather(operand, operands);
    matrices.multiply(operands.product);
  }
  for (int i = 0; i < 4; ++i)
    d[i] += operands.product[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

} // namespace kerneldna::cuda::host_execution
