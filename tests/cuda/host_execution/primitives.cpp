#include "primitives.h"

#include "kernels/dtypes.h"
#include "kernels/launch.h"
#include "kernels/ptx.h"

#include <algorithm>

namespace kerneldna::cuda::host_execution {
namespace {

Launch one_warp(const char *kernel, size_t shared_bytes = 0) { return {kernel, 1, kWarpSize, shared_bytes, {}}; }

__global__ void shuffle_kernel(char kind, int argument, int width, int times, double *values) {
  double &value = values[threadIdx.x];
  for (int i = 0; i < times; ++i)
    if (kind == 'i')
      value = __shfl_sync(0xffffffff, value, argument, width);
    else if (kind == 'x')
      value = __shfl_xor_sync(0xffffffff, value, argument, width);
    else
      value = __shfl_down_sync(0xffffffff, value, argument, width);
}

__global__ void ldmatrix_kernel(const uint16_t *numbers, int count, const int *row_offsets, uint32_t (*result)[4]) {
  KERNELDNA_SHARED(shared);
  uint16_t *rows = reinterpret_cast<uint16_t *>(shared);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    rows[i] = numbers[i];
  __syncwarp();
  ldmatrix_x4(result[threadIdx.x], rows + row_offsets[threadIdx.x]);
}

struct Fragments {
  uint32_t a[kWarpSize][4], b[kWarpSize][2];
  float d[kWarpSize][4];
};

template <class T> __global__ void mma_kernel(Fragments *fragments) {
  const int lane = threadIdx.x;
  auto &[a, b, d] = *fragments;
  mma_16x8x16<T>(d[lane], a[lane], b[lane][0], b[lane][1]);
}

constexpr int kStates = 4, kStateBytes = 32;

__global__ void copies_kernel(const uint8_t *source, bool valid, uint8_t (*states)[kStateBytes]) {
  KERNELDNA_SHARED(shared);
  if (threadIdx.x != 0)
    return;
  auto record = [&, state = 0]() mutable { std::copy_n(shared, kStateBytes, states[state++]); };
  record();
  for (int group = 0; group < 2; ++group) {
    cp_async(shared + 16 * group, source + 16 * group, valid);
    cp_async_commit();
  }
  record();
  cp_async_wait<1>();
  record();
  cp_async_wait<0>();
  record();
}

__global__ void neighbours_kernel(char barrier, int *result) {
  KERNELDNA_SHARED(shared);
  volatile int *indices = reinterpret_cast<int *>(shared);
  indices[threadIdx.x] = threadIdx.x;
  if (barrier == 'b')
    __syncthreads();
  else if (barrier == 'w')
    __syncwarp();
  result[threadIdx.x] = indices[(threadIdx.x + 1) % blockDim.x];
}

__global__ void thread_order_kernel(std::vector<int> *order) {
  order->push_back(threadIdx.x);
  __syncwarp();
  order->push_back(threadIdx.x);
}

__global__ void block_order_kernel(std::vector<unsigned> *order) {
  if (threadIdx.x == 0)
    order->push_back((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
}

__global__ void misuse_kernel(const std::string *what) {
  KERNELDNA_SHARED(shared);
  alignas(16) static const unsigned char source[32] = {};
  const bool chosen = blockIdx.x == 1 && threadIdx.x == 5;
  uint32_t r[4];
  if (*what == "throw" && chosen)
    fail("thrown");
  if (*what == "trap" && chosen)
    __trap();
  if (*what == "return before a meeting" && chosen)
    return;
  if (*what == "return after others" && threadIdx.x != 15)
    return;
  if (*what == "different instructions" && chosen)
    __shfl_sync(0xffffffff, 1.0f, 0);
  else if (*what == "barrier against meeting" && chosen)
    __syncthreads();
  else
    __syncwarp();
  if (*what == "part of a warp" && chosen)
    __syncwarp(0xffff);
  if (*what == "part of a shuffle" && chosen)
    __shfl_down_sync(0xfffffffe, 1, 1);
  if (*what == "return before a barrier of others, which is allowed") {
    if (threadIdx.y < 2)
      __syncthreads();
    return;
  }
  if (*what == "row past the end" && blockIdx.x == 1)
    ldmatrix_x4(r, shared + 16 * threadIdx.x + (threadIdx.x == 5 ? 512 : 0));
  if (*what == "unaligned row" && blockIdx.x == 1)
    ldmatrix_x4(r, shared + 16 * threadIdx.x + (threadIdx.x == 5 ? 8 : 0));
  if (*what == "unaligned source" && chosen)
    cp_async(shared, source + 8, true);
  if (*what == "unaligned target" && chosen)
    cp_async(shared + 8, source, true);
  if (*what == "target past the end" && chosen)
    cp_async(shared + 512, source, true);
  if (*what == "copy without wait" && chosen) {
    cp_async(shared, source, true);
    cp_async_commit();
  }
  if (*what == "copy without commit" && chosen) {
    cp_async(shared, source, true);
    cp_async_wait<0>();
  }
}

} // namespace

std::vector<double> try_shuffle(const std::string &kind, const std::vector<double> &values, int argument, int width,
                                int times) {
  std::vector<double> result = values;
  result.resize(kWarpSize);
  launch(shuffle_kernel, one_warp("shuffle"), kind.at(0), argument, width, times, result.data());
  return result;
}

std::vector<std::vector<uint32_t>> try_ldmatrix(const std::vector<uint16_t> &numbers,
                                                const std::vector<int> &row_offsets) {
  uint32_t registers[kWarpSize][4];
  launch(ldmatrix_kernel, one_warp("ldmatrix", 2 * numbers.size()), numbers.data(), static_cast<int>(numbers.size()),
         row_offsets.data(), registers);
  std::vector<std::vector<uint32_t>> result;
  for (const auto &lane : registers)
    result.emplace_back(lane, lane + 4);
  return result;
}

std::vector<std::vector<float>> try_mma(const std::string &operand, const std::vector<std::vector<uint32_t>> &a,
                                        const std::vector<std::vector<uint32_t>> &b,
                                        std::vector<std::vector<float>> d) {
  Fragments fragments;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    std::copy_n(a.at(lane).begin(), 4, fragments.a[lane]);
    std::copy_n(b.at(lane).begin(), 2, fragments.b[lane]);
    std::copy_n(d.at(lane).begin(), 4, fragments.d[lane]);
  }
  launch(operand == "f16" ? mma_kernel<__half> : mma_kernel<__nv_bfloat16>, one_warp("mma"), &fragments);
  for (int lane = 0; lane < kWarpSize; ++lane)
    d[lane].assign(fragments.d[lane], fragments.d[lane] + 4);
  return d;
}

std::vector<float> try_round(const std::string &dtype, const std::vector<float> &values) {
  std::vector<float> result;
  for (const float value : values)
    result.push_back(dtype == "f16" ? to_compute(from_compute<__half>(value))
                                    : to_compute(from_compute<__nv_bfloat16>(value)));
  return result;
}

std::vector<std::vector<uint8_t>> try_copies(const std::vector<uint8_t> &source, int64_t offset, bool valid) {
  uint8_t states[kStates][kStateBytes];
  launch(copies_kernel, one_warp("copies", kStateBytes), source.data() + offset, valid, states);
  std::vector<std::vector<uint8_t>> result;
  for (const auto &state : states)
    result.emplace_back(state, state + kStateBytes);
  return result;
}

std::vector<int> try_neighbours(int threads, const std::string &barrier) {
  std::vector<int> result(threads);
  launch(neighbours_kernel, {"neighbours", 1, static_cast<unsigned>(threads), threads * sizeof(int), {}}, barrier.at(0),
         result.data());
  return result;
}

std::vector<int> try_thread_order(int threads) {
  std::vector<int> order;
  launch(thread_order_kernel, {"thread_order", 1, static_cast<unsigned>(threads), 0, {}}, &order);
  return order;
}

std::vector<unsigned> try_block_order(const std::vector<unsigned> &grid) {
  std::vector<unsigned> order;
  launch(block_order_kernel, {"block_order", {grid.at(0), grid.at(1), grid.at(2)}, kWarpSize, 0, {}}, &order);
  return order;
}

void try_misuse(const std::string &what) {
  Launch where{"misuse", 2, {16, 4, 1}, 512, {}};
  if (what == "overlap without wait")
    where.overlaps_previous = true;
  if (what == "grid of none")
    where.grid = {1, 0, 1};
  if (what == "half a warp")
    where.block = 48;
  if (what == "too much shared memory")
    where.shared_bytes = (163 << 10) + 1;
  launch(misuse_kernel, where, &what);
}

} // namespace kerneldna::cuda::host_execution
