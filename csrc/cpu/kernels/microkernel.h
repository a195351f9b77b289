// The register-blocked product that every dense kernel here stands on: MR rows of A, one scalar at a time, times NV
// vectors of B. A is read in place through a table of offsets along k, so that the weight needs no repacking.
#pragma once

#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

// Accumulators fill the registers but for NV vectors of B and one or two broadcasts.
constexpr int kRows = kRegisters == 32 ? 8 : 6;
constexpr int kPanelVectors = kRegisters == 32 ? 3 : 2;

// accumulators[m][v] += sum_k a[m * a_row + a_offset[k]] * b[b_offset[k] + v * lanes ...]
template <int MR, int NV, class T>
KERNELDNA_INLINE void multiply(Vec<T> (&accumulators)[MR][NV], const T *a, int64_t a_row, const int64_t *a_offset,
                               const T *b, const int64_t *b_offset, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    const T *a_k = a + a_offset[k];
    const T *b_k = b + b_offset[k];
    Vec<T> b_vectors[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v)
      b_vectors[v] = load(b_k + v * kLanes<T>);
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      const Vec<T> a_vector = splat(a_k[m * a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v)
        accumulators[m][v] += a_vector * b_vectors[v];
    }
  }
}

// The product of one block, added to (or, with `fresh`, written to) c.
template <int MR, int NV, class T>
__attribute__((noinline)) void multiply_block(const T *a, int64_t a_row, const int64_t *a_offset, const T *b,
                                              const int64_t *b_offset, int64_t count, T *c, int64_t c_row, bool fresh) {
  Vec<T> accumulators[MR][NV];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v)
      accumulators[m][v] = fresh ? Vec<T>{} : load(c + m * c_row + v * kLanes<T>);
  multiply<MR, NV>(accumulators, a, a_row, a_offset, b, b_offset, count);
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v)
      store(c + m * c_row + v * kLanes<T>, accumulators[m][v]);
}

// Calls block.template operator()<MR, NV>() with MR = rows and NV = vectors, both within what one block holds.
template <class Block> KERNELDNA_INLINE void with_block_size(int rows, int vectors, Block &&block) {
  auto with_rows = [&]<int NV>() {
    switch (rows) {
    case 1:
      return block.template operator()<1, NV>();
    case 2:
      return block.template operator()<2, NV>();
    case 3:
      return block.template operator()<3, NV>();
    case 4:
      return block.template operator()<4, NV>();
    case 5:
      return block.template operator()<5, NV>();
    case 6:
      return block.template operator()<6, NV>();
    case 7:
      return block.template operator()<kRows == 8 ? 7 : 1, NV>();
    case 8:
      return block.template operator()<kRows == 8 ? 8 : 1, NV>();
    }
  };
  if (vectors == 1)
    with_rows.template operator()<1>();
  else if (vectors == 2)
    with_rows.template operator()<2>();
  else
    with_rows.template operator()<kPanelVectors>();
}

// How many vectors the next panel takes of those that are left: full panels, the last two balanced, because a panel of
// a single vector is bound by the loads of A.
KERNELDNA_INLINE int next_panel(int64_t vectors_left) {
  if (vectors_left > kPanelVectors)
    return kPanelVectors == 3 && vectors_left == 4 ? 2 : kPanelVectors;
  return int(vectors_left);
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
