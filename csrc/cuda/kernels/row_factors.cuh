// The factors by which a warp multiplies its rows of A, as fragments of 16 bits (ptx.h).
//
// Nearly always all rows of a warp are of one sample. Then rows g and g + 8 of all fragments have the same factors, and
// a lane reads those of 16 k in two words, four lanes' words beside each other: 2 of 128 bytes of shared memory where
// ldmatrix, for rows of several samples, reads 4 for each fragment. Rows in the padding, which have zeros for factors,
// are then cleared after the multiplication: an infinite factor must not make NaN of their zeros.
#pragma once

#include "conv_gemm_tile.cuh"
#include "dtypes.h"
#include "ptx.h"

namespace kerneldna::cuda {

// Of a warp with Fragments of 16 rows. Ld: numbers from the factors of one sample to those of the next.
template <class T, int Fragments, int Ld> class RowFactors {
public:
  // rows: the warp's.
  __device__ explicit RowFactors(const TileRow *rows)
      : sample_place(rows[0].sample == rows[16 * Fragments - 1].sample ? rows[0].sample * Ld : -1) {}

  __device__ bool are_of_one_sample() const { return sample_place >= 0; }

  // A step along K begins. places: in scale, of the factors of each of the warp's rows.
  template <bool OneSample> __device__ void begin_step(const int *places, const T *scale) {
    const int lane = threadIdx.x % 32;
    if (OneSample)
      named[0] = scale + sample_place + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < Fragments; ++i)
      if (OneSample)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          in_image[i][half] = places[i * 16 + half * 8 + lane / 4] == sample_place;
      else
        named[i] = scale + places[i * 16 + lane % 16] + lane / 16 * 8;
  }

  // Before the fragments of 16 k from k on.
  template <bool OneSample> __device__ void load(int k) {
    if (OneSample)
#pragma unroll
      for (int side = 0; side < 2; ++side)
        pairs[side] = *reinterpret_cast<const uint32_t *>(named[0] + k + side * 8);
  }

  template <bool OneSample> __device__ void multiply(uint32_t (&fragment)[4], int i, int k) const {
    uint32_t factors[4];
    if (!OneSample)
      ldmatrix_x4(factors, named[i] + k);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const uint32_t product = multiply_pair<T>(fragment[e], OneSample ? pairs[e / 2] : factors[e]);
      fragment[e] = !OneSample || in_image[i][e % 2] ? product : 0;
    }
  }

private:
  int sample_place; // -1: they are of several
  const T *named[Fragments];
  bool in_image[Fragments][2];
  uint32_t pairs[2];
};

} // namespace kerneldna::cuda
