// The pixels that one class of a convolution writes, and the pixels and taps that it reads for them.
//
// The forward is one class: output pixel (r, q) reads input pixel (r * stride - padding + u * dilation, ..) through tap
// (u, v). The gradient of the input has one class for each remainder of a row and of a column modulo the stride: input
// rows a, a + stride, .. are all reached through the same taps, those u with a + padding - u * dilation divisible by
// the stride, and this quotient is the output row that they come from. So in every class the row that is read is affine
// in the row that is written and in the number of the tap, and one kernel serves all.
#pragma once

#include "geometry.h"

namespace kerneldna::cuda {

// One of the two axes, rows or columns.
struct LatticeAxis {
  int size;                                 // pixels of the class
  int source_origin, source_step, tap_step; // pixel read = source_origin + pixel * source_step + tap * tap_step
  int first_tap, tap_stride, taps;          // tap of the weight = first_tap + tap * tap_stride
  int target_origin, target_step;           // pixel written = target_origin + pixel * target_step
};

struct Lattice {
  LatticeAxis rows, columns;
  __host__ __device__ int64_t pixels() const { return int64_t(rows.size) * columns.size; } // of one sample
  __host__ __device__ int taps() const { return rows.taps * columns.taps; }
};

// The number of classes along an axis, of which none is empty.
__host__ __device__ inline int lattice_classes(const Geometry &g, bool transposed, int axis) {
  const int size = axis == 0 ? g.in_height : g.in_width;
  if (!transposed)
    return 1;
  return g.stride[axis] < size ? g.stride[axis] : size;
}

__host__ __device__ inline LatticeAxis lattice_axis(const Geometry &g, bool transposed, int axis, int remainder) {
  const int stride = g.stride[axis], padding = g.padding[axis], dilation = g.dilation[axis];
  const int in = axis == 0 ? g.in_height : g.in_width, out = axis == 0 ? g.out_height : g.out_width;
  const int kernel = axis == 0 ? g.kernel_height : g.kernel_width;
  if (!transposed)
    return {out, -padding, stride, dilation, 0, 1, kernel, 0, 1};
  // Taps that divide come once every tap_stride = stride / gcd(stride, dilation), or only once in the kernel. All is in
  // 32 bits, in which a kernel's span fits that fits into a padded image, and by sums: a division is dear in a kernel.
  const unsigned step = unsigned(dilation) % stride;
  int tap_stride = 1;
  for (unsigned rest = step; tap_stride < kernel && rest != 0; ++tap_stride)
    rest = rest + step < unsigned(stride) ? rest + step : rest + step - stride;
  int first = 0;
  unsigned rest = unsigned(remainder + padding) % stride;
  for (; first < tap_stride && first < kernel && rest != 0; ++first)
    rest = rest < step ? rest + stride - step : rest - step;
  const bool none = first == tap_stride || first == kernel;
  LatticeAxis lattice{};
  lattice.size = (in - remainder - 1) / stride + 1;
  lattice.source_step = 1;
  lattice.tap_stride = tap_stride;
  lattice.target_origin = remainder;
  lattice.target_step = stride;
  if (!none) {
    lattice.source_origin = (remainder + padding - first * dilation) / stride;
    lattice.tap_step = tap_stride < kernel ? -(tap_stride * dilation / stride) : 0;
    lattice.first_tap = first;
    lattice.taps = (kernel - first + tap_stride - 1) / tap_stride;
  }
  return lattice;
}

__host__ __device__ inline Lattice lattice_of(const Geometry &g, bool transposed, int row, int column) {
  return {lattice_axis(g, transposed, 0, row), lattice_axis(g, transposed, 1, column)};
}

// Pixels of one sample in the class of these remainders.
__host__ __device__ inline int64_t lattice_pixels(const Geometry &g, bool transposed, int row, int column) {
  if (!transposed)
    return int64_t(g.out_height) * g.out_width;
  return int64_t((g.in_height - row - 1) / g.stride[0] + 1) * ((g.in_width - column - 1) / g.stride[1] + 1);
}

// The classes one after the other, each cut into tiles of the same number of pixels, flat over the samples.
struct LatticeTile {
  Lattice lattice;
  int row, column; // of the class: remainders
  int64_t tile;    // of the class
};

__host__ __device__ inline LatticeTile lattice_tile(const Geometry &g, bool transposed, int tile_pixels, int64_t tile) {
  const int columns = lattice_classes(g, transposed, 1);
  for (int index = 0;; ++index) {
    const int row = index / columns, column = index % columns;
    const int64_t tiles = ceil_divide(g.batch * lattice_pixels(g, transposed, row, column), tile_pixels);
    if (tile < tiles)
      return {lattice_of(g, transposed, row, column), row, column, tile};
    tile -= tiles;
  }
}

// Tiles of the classes before one, or of all where this is the one past the last row.
__host__ __device__ inline int64_t lattice_tiles_before(const Geometry &g, bool transposed, int tile_pixels, int row,
                                                        int column) {
  const int columns = lattice_classes(g, transposed, 1);
  int64_t tiles = 0;
  for (int index = 0; index < row * columns + column; ++index)
    tiles += ceil_divide(g.batch * lattice_pixels(g, transposed, index / columns, index % columns), tile_pixels);
  return tiles;
}

__host__ __device__ inline int64_t lattice_tiles(const Geometry &g, bool transposed, int tile_pixels) {
  return lattice_tiles_before(g, transposed, tile_pixels, lattice_classes(g, transposed, 0), 0);
}

// Where sums over the pixels of a tile and a sample go: the tile and the sample of a class share the slot
// first + tile + sample, which no others of the class have.
__host__ __device__ inline int64_t lattice_first_slot(const Geometry &g, bool transposed, int tile_pixels, int row,
                                                      int column) {
  const int64_t classes = int64_t(row) * lattice_classes(g, transposed, 1) + column;
  return lattice_tiles_before(g, transposed, tile_pixels, row, column) + classes * g.batch;
}

__host__ __device__ inline int64_t lattice_slots(const Geometry &g, bool transposed, int tile_pixels) {
  return lattice_first_slot(g, transposed, tile_pixels, lattice_classes(g, transposed, 0), 0);
}

// The most samples that a tile of block_m pixels can hold pixels of.
__host__ __device__ inline int64_t samples_of_tile(int block_m, int64_t pixels, int64_t batch) {
  const int64_t samples = (block_m + pixels - 2) / pixels + 1;
  return samples < batch ? samples : batch;
}

} // namespace kerneldna::cuda
