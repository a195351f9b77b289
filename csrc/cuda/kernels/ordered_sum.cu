#include "ordered_sum.h"

#include "geometry.h"

#include <algorithm>

namespace kerneldna::cuda {
namespace {

constexpr int kThreads = 256;

// Neighbouring threads add up neighbouring numbers, `columns` of them (a power of two). Where those are few, the other
// threads share the rows.
template <class T>
__global__ void __launch_bounds__(kThreads) ordered_sum_kernel(OrderedSum sum, int64_t count, int columns) {
  KERNELDNA_SHARED(shared);
  float *const parts = reinterpret_cast<float *>(shared);
  const int64_t element = int64_t(blockIdx.x) * columns + threadIdx.x % columns;
  const int first_row = threadIdx.x / columns, row_step = kThreads / columns;

  float total = 0;
  if (element < count) {
    const float *const in = sum.in + element;
#pragma unroll 4
    for (int64_t row = first_row; row < sum.rows; row += row_step)
      total += in[row * count];
  }
  parts[threadIdx.x] = total;
  for (int others = row_step / 2; others > 0; others /= 2) {
    __syncthreads();
    if (first_row < others)
      parts[threadIdx.x] += parts[threadIdx.x + others * columns];
  }
  if (first_row == 0 && element < count) {
    const int64_t a = element / sum.sizes[1], b = element % sum.sizes[1];
    static_cast<T *>(sum.out)[a * sum.strides[0] + b * sum.strides[1]] = from_compute<T>(parts[threadIdx.x]);
  }
}

template <class T> void run(const OrderedSum &sum, Stream stream) {
  const int64_t count = sum.sizes[0] * sum.sizes[1];
  if (count == 0)
    return;
  int columns = 8; // 32 bytes, the least that memory delivers
  while (columns < count && columns < 32)
    columns *= 2;
  const Launch where{"ordered_sum", {ceil_divide(count, columns)}, dim3(kThreads), kThreads * sizeof(float), stream};
  launch(ordered_sum_kernel<T>, where, sum, count, columns);
}

} // namespace

void ordered_sum(const OrderedSum &sum, Stored stored, Stream stream) {
  with_type_of(stored, [&](auto zero) { run<decltype(zero)>(sum, stream); });
}

} // namespace kerneldna::cuda
