// Matmul (squeeze_excite_params.h): matrices as small as those of squeeze-and-excitation, as they stand in memory.
#pragma once

#include "simd.h"
#include "squeeze_excite_params.h"

#include <algorithm>

namespace kerneldna::cpu::KERNELDNA_ISA {

template <int Rows, class T> KERNELDNA_INLINE void multiply_rows(const Matmul &product, int64_t row) {
  constexpr int lanes = kLanes<T>;
  constexpr int64_t kChain = 64; // additions one after the other
  const int64_t columns = product.columns;
  const T *left = static_cast<const T *>(product.left) + row * product.left_row;
  T *out = static_cast<T *>(product.out) + row * columns;
  for (int64_t c = 0; c < columns; c += lanes) {
    const int64_t width = std::min<int64_t>(columns - c, lanes);
    const T *right = static_cast<const T *>(product.right) + c;
    Vec<T> sums[Rows] = {};
    for (int64_t k = 0; k < product.reduction;) {
      const int64_t end = std::min(k + kChain, product.reduction);
      Vec<T> chains[Rows] = {};
      for (; k < end; ++k) {
        const Vec<T> factor = load_first(right + k * columns, width);
        for (int r = 0; r < Rows; ++r)
          chains[r] += factor * splat(left[r * product.left_row + k * product.left_step]);
      }
      for (int r = 0; r < Rows; ++r)
        sums[r] += chains[r];
    }
    for (int r = 0; r < Rows; ++r)
      store_first(out + r * columns + c, sums[r], width);
  }
}

template <class T> void matmul(const Matmul &product, int64_t begin, int64_t end) {
  constexpr int64_t tile = Matmul::kTile;
  for (int64_t task = begin; task < end; ++task) {
    if ((task + 1) * tile <= product.rows)
      multiply_rows<tile, T>(product, task * tile);
    else
      for (int64_t row = task * tile; row < product.rows; ++row)
        multiply_rows<1, T>(product, row);
  }
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
