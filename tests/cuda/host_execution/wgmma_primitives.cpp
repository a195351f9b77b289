#include "primitives.h"

#include "kernels/dtypes.h"
#include "kernels/launch.h"
#include "kernels/ptx_sm90.h"

#include <algorithm>

namespace kerneldna::cuda::host_execution {
namespace {

constexpr int kThreads = 4 * kWarpSize;
constexpr size_t kOperandBytes = 32 << 10; // at least of B, wherever a descriptor puts it

struct Registers {
  uint32_t a[kThreads][4];
  float d[kThreads][64];
};

template <class T, int Columns>
__global__ void wgmma_kernel(const uint16_t *numbers, int count, uint64_t descriptor, Registers *registers) {
  KERNELDNA_SHARED(shared);
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    reinterpret_cast<uint16_t *>(shared)[i] = numbers[i];
  fence_proxy_async();
  __syncthreads();
  auto &a = registers->a[threadIdx.x];
  float d[Columns / 2] = {};
  wgmma_fence();
  wgmma_64x16<T>(d, a, descriptor);
  wgmma_64x16<T>(d, a, descriptor);
  wgmma_commit();
  wgmma_wait<0>();
  std::copy_n(d, Columns / 2, registers->d[threadIdx.x]);
}

template <class T> auto wgmma_kernel_of(int columns) {
  return columns == 64 ? wgmma_kernel<T, 64> : wgmma_kernel<T, 128>;
}

__global__ void wgmma_misuse_kernel(const std::string *what, const unsigned char *source) {
  KERNELDNA_SHARED(shared);
  const auto is = [&](const char *mistake) { return *what == mistake; };
  const auto fill = [&] {
    for (size_t i = 16 * threadIdx.x; i < kOperandBytes; i += 16 * blockDim.x)
      cp_async(shared + i, source + i, true);
    cp_async_commit();
  };
  uint32_t a[4] = {}, row[4];
  float d[64] = {};
  const bool chosen = threadIdx.x == 64;
  fill();
  if (!is("operand without wait for its copy"))
    cp_async_wait<0>();
  if (!is("operand without fence") || !chosen)
    fence_proxy_async();
  cp_async_wait<0>();
  __syncthreads();
  if (!is("registers without fence"))
    wgmma_fence();
  if (is("registers written after the fence"))
    ldmatrix_x4(row, shared + threadIdx.x % 32 * 16);
  const int far = is("operand past the end") ? int(kOperandBytes) : 0;
  const uint64_t b = matrix_descriptor(shared + far) ^ (is("no swizzle") ? uint64_t(1) << 62 : 0) ^
                     (is("different operands") && threadIdx.x >= 96 ? 2 : 0);
  if (!is("a warp less") || threadIdx.x < 96)
    wgmma_64x16<__half>(d, a, b);
  wgmma_commit();
  if (is("operand overwritten")) {
    __syncthreads();
    fill();
    cp_async_wait<0>();
  }
  if (is("register of a") && chosen)
    a[1] = 1;
  if (is("register of d") && chosen)
    d[3] = 1;
  if (!is("no wait"))
    wgmma_wait<0>();
}

} // namespace

std::vector<std::vector<float>> try_wgmma(const std::string &operand, int columns, const std::vector<uint16_t> &numbers,
                                          uint64_t descriptor, const std::vector<std::vector<uint32_t>> &a) {
  Registers registers{};
  for (int thread = 0; thread < kThreads; ++thread)
    std::copy_n(a.at(thread).begin(), 4, registers.a[thread]);
  const auto kernel = operand == "f16" ? wgmma_kernel_of<__half>(columns) : wgmma_kernel_of<__nv_bfloat16>(columns);
  launch(kernel, {"wgmma", 1, kThreads, 2 * numbers.size(), {}}, numbers.data(), static_cast<int>(numbers.size()),
         descriptor, &registers);
  std::vector<std::vector<float>> result;
  for (const auto &d : registers.d)
    result.emplace_back(d, d + columns / 2);
  return result;
}

void try_wgmma_misuse(const std::string &what) {
  const std::vector<unsigned char> zeros(kOperandBytes + 16);
  const auto *source = zeros.data() + (16 - reinterpret_cast<uintptr_t>(zeros.data()) % 16) % 16;
  launch(wgmma_misuse_kernel, {"wgmma_misuse", 1, kThreads, kOperandBytes, {}}, &what, source);
}

} // namespace kerneldna::cuda::host_execution
