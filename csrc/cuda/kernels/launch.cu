// What a launch needs of the CUDA runtime; in host execution, of the GPU that a test plays.
#include "launch.h"

#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace kerneldna::cuda {
namespace {

// Stands for all kernels, which are compiled for the same architectures.
__global__ void __launch_bounds__(32) probe_kernel() {}

std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string capability_name(int capability) {
  return std::to_string(capability / 10) + "." + std::to_string(capability % 10);
}

std::string refusal_of(cudaError_t result, int capability) {
  cudaGetLastError(); // or a later call would find the error
  switch (result) {
  case cudaErrorMemoryAllocation: // says nothing of the next time
    fail("the driver could not load the CUDA kernels: ", cudaGetErrorString(result));
  case cudaErrorInsufficientDriver: {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    return "the library was built with CUDA " + version_name(CUDART_VERSION) +
           (driver ? ", and the NVIDIA driver is for CUDA " + version_name(driver) + " at most"
                   : ", and there is no NVIDIA driver");
  }
  case cudaErrorNoKernelImageForDevice:
    return "the GPU has compute capability " + capability_name(capability) +
           ", and the library was compiled for " KERNELDNA_CUDA_ARCHS;
  default:
    return std::string("the driver refuses its kernels: ") + cudaGetErrorString(result);
  }
}

template <class Size> std::string describe(const Size &size) {
  std::ostringstream text;
  text << "(" << size.x << ", " << size.y << ", " << size.z << ")";
  return text.str();
}

} // namespace

Device ask_device(int device) {
  Device found{};
  Limits &limits = found.limits;
  int major = 0, minor = 0;
  const std::pair<int *, cudaDeviceAttr> questions[] = {
      {&limits.multiprocessors, cudaDevAttrMultiProcessorCount},
      {&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin},
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
  };
  cudaError_t result = cudaSuccess;
  for (const auto &[answer, attribute] : questions)
    if (result == cudaSuccess)
      result = cudaDeviceGetAttribute(answer, attribute, device);
  limits.capability = 10 * major + minor;
  if (result == cudaSuccess && limits.capability < kOldestCapability) {
    found.refusal = "the GPU has compute capability " + capability_name(limits.capability) + ", " +
                    capability_name(kOldestCapability) + " is needed";
    return found;
  }
  cudaFuncAttributes code{};
  if (result == cudaSuccess)
    result = cudaFuncGetAttributes(&code, reinterpret_cast<const void *>(probe_kernel));
  if (result != cudaSuccess)
    found.refusal = refusal_of(result, limits.capability);
  limits.compiled = code.ptxVersion;
  return found;
}

#ifndef KERNELDNA_HOST_EXECUTION
const Device &device_of(int device) {
  static std::mutex mutex;
  static std::deque<std::optional<Device>> known; // whose elements stay where they are
  std::lock_guard lock(mutex);
  while (known.size() <= static_cast<size_t>(device))
    known.emplace_back();
  if (!known[device])
    known[device] = ask_device(device);
  return *known[device];
}
#endif

const Limits &limits_of(int device) {
  const Device &found = device_of(device);
  if (!found.refusal.empty())
    fail("the CUDA kernels of kerneldna_ops cannot run on cuda:", device, ": ", found.refusal);
  return found.limits;
}

void check_launch(const Launch &launch) {
  const Limits &limits = limits_of(launch.stream.device);
  const Grid &grid = launch.grid;
  const dim3 &block = launch.block;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff)
    fail("kernel ", launch.kernel, ": a grid of blocks has from (1, 1, 1) to (2147483647, 65535, 65535) of them, not ",
         describe(grid));
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > 1024 || threads % 32 != 0 || block.z > 64)
    fail("kernel ", launch.kernel,
         ": a block has whole warps of 32 threads, at most 1024 threads and 64 of them in z, "
         "not ",
         describe(block));
  if (launch.shared_bytes > static_cast<size_t>(limits.shared_bytes))
    fail("kernel ", launch.kernel, " needs ", launch.shared_bytes, " bytes of shared memory in a block, and device ",
         launch.stream.device, " has ", limits.shared_bytes);
}

void check_result(cudaError_t result, const char *kernel) {
  if (result == cudaSuccess)
    return;
  cudaGetLastError(); // or a later call would find the error
  fail("kernel ", kernel, ": ", cudaGetErrorString(result));
}

void allow_shared_memory(const void *kernel, const Launch &launch) {
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (launch.shared_bytes <= kAlwaysAllowed)
    return;
  static std::mutex mutex;
  static std::set<std::pair<const void *, int>> allowed; // on a device
  const std::pair key(kernel, launch.stream.device);
  std::lock_guard lock(mutex);
  if (allowed.contains(key))
    return;
  check_result(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    limits_of(launch.stream.device).shared_bytes),
               launch.kernel);
  allowed.insert(key);
}

bool may_overlap(const Launch &launch) {
  return launch.overlaps_previous && limits_of(launch.stream.device).compiled >= 90;
}

} // namespace kerneldna::cuda
