// The rows and columns of source pixels that the taps of a kernel reach from one lattice pixel.
#pragma once

#include "conv_params.h"
#include "simd.h"

namespace kerneldna::cpu::KERNELDNA_ISA {

struct TapExtent {
  int64_t first_row = 0, last_row = 0, first_column = 0, last_column = 0;

  int64_t rows() const { return last_row - first_row + 1; }
  int64_t columns() const { return last_column - first_column + 1; }
};

KERNELDNA_INLINE TapExtent extent_of(const Tap *taps, int64_t count) {
  TapExtent extent;
  for (int64_t t = 0; t < count; ++t) {
    const Tap &tap = taps[t];
    extent.first_row = t == 0 || tap.row < extent.first_row ? tap.row : extent.first_row;
    extent.last_row = t == 0 || tap.row > extent.last_row ? tap.row : extent.last_row;
    extent.first_column = t == 0 || tap.column < extent.first_column ? tap.column : extent.first_column;
    extent.last_column = t == 0 || tap.column > extent.last_column ? tap.column : extent.last_column;
  }
  return extent;
}

} // namespace kerneldna::cpu::KERNELDNA_ISA
