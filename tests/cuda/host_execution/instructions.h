// Instructions in which the lanes of a warp take part together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kerneldna::cuda::host_execution {

void check_mask(const char *instruction, unsigned mask);

// The value that lane `source` brings, as its bits.
void shuffle(const char *instruction, unsigned mask, void *value, size_t bytes, int source);
template <class T> T shuffle(const char *instruction, unsigned mask, T value, int source) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  shuffle(instruction, mask, &value, sizeof(value), source);
  return value;
}

[[noreturn]] void trap();

void ldmatrix(uint32_t (&r)[4], const void *row);

enum class Operand { f16, bf16 };
void mma(Operand operand, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

} // namespace kerneldna::cuda::host_execution
