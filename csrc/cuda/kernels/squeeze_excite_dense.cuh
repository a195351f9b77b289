// A fully connected layer, multiplied by one block.
#pragma once

#include "squeeze_excite_pool.cuh"

namespace kerneldna::cuda::squeeze {

template <class T> struct Matrix {
  const T *data;
  int rows, columns, row_stride; // columns are adjacent
  bool vectors;                  // every row starts at, and consists of, whole vectors of 16 bytes
};

// Groups of lanes take Rows rows at a time, so that as many loads are under way and what they read of the input serves
// as many products. The first loads are made when this is made: until they are wanted, other things can happen.
template <class T, int Rows> class Layer {
  static constexpr int kCount = Vector<T>::kCount;

public:
  __device__ explicit Layer(const Matrix<T> &matrix) : matrix(matrix) {
    const int lanes = lanes_of(kCount);
    const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
    load(ahead, group, groups, matrix.vectors ? lane * kCount : matrix.columns);
  }

  // emit(row, sample, product) once for each, by some thread. The inputs of the samples stand `stride` apart.
  template <int Samples, class Emit> __device__ void multiply(const float *input, int stride, Emit emit) const {
    if (matrix.vectors)
      multiply_by<kCount, Samples>(input, stride, emit);
    else
      multiply_by<1, Samples>(input, stride, emit);
  }

private:
  __device__ int lanes_of(int count) const { return lanes_for((matrix.columns + count - 1) / count); }

  template <int Count>
  __device__ void load(Piece<T, Count> (&pieces)[Rows], int first_row, int groups, int column) const {
    for (int r = 0; r < Rows; ++r) {
      const int row = first_row + r * groups;
      pieces[r] = load_if<Count>(row < matrix.rows && column < matrix.columns,
                                 matrix.data + int64_t(row) * matrix.row_stride + column);
    }
  }

  template <int Count, int Samples>
  __device__ void add(float (&sums)[Rows][Samples], const Piece<T, Count> (&pieces)[Rows], const float *input,
                      int stride, int column) const {
    if (column >= matrix.columns)
      return;
    constexpr int kAtOnce = Count == 1 ? 1 : Vector<float>::kCount;
    for (int s = 0; s < Samples; ++s)
      for (int e = 0; e < Count; e += kAtOnce) {
        const Piece<float, kAtOnce> x = load_if<kAtOnce>(true, input + s * stride + column + e);
        for (int r = 0; r < Rows; ++r)
          for (int i = 0; i < kAtOnce; ++i)
            sums[r][s] += to_compute(pieces[r].values[e + i]) * x.values[i];
      }
  }

  template <int Count, int Samples, class Emit>
  __device__ void multiply_by(const float *input, int stride, Emit emit) const {
    const int lanes = lanes_of(Count);
    const int group = threadIdx.x / lanes, lane = threadIdx.x % lanes, groups = blockDim.x / lanes;
#pragma unroll 1
    for (int first = 0; first < matrix.rows; first += groups * Rows) {
      float sums[Rows][Samples] = {};
      int column = lane * Count;
      if constexpr (Count > 1)
        if (first == 0) {
          add(sums, ahead, input, stride, column);
          column += lanes * Count;
        }
#pragma unroll 1
      for (; column < matrix.columns; column += lanes * Count) {
        Piece<T, Count> pieces[Rows];
        load(pieces, first + group, groups, column);
        add(sums, pieces, input, stride, column);
      }
      for (int offset = lanes / 2; offset; offset /= 2)
        for (int r = 0; r < Rows; ++r)
          for (int s = 0; s < Samples; ++s)
            sums[r][s] += __shfl_xor_sync(0xffffffffu, sums[r][s], offset);
      for (int r = 0; r < Rows; ++r)
        for (int s = 0; s < Samples; ++s) {
          const int row = first + group + r * groups;
          if (row < matrix.rows && lane == (r * Samples + s) % lanes)
            emit(row, s, sums[r][s]);
        }
    }
  }

  const Matrix<T> matrix;
  Piece<T, kCount> ahead[Rows];
};

} // namespace kerneldna::cuda::squeeze
