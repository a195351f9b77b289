// Launching on a GPU; host_execution/ has its own.
#ifndef KERNELDNA_HOST_EXECUTION

#include "launch.h"

#include <deque>
#include <mutex>
#include <optional>
#include <string>

namespace kerneldna::cuda {
namespace {

int attribute_of(int device, cudaDeviceAttr attribute) {
  int value = 0;
  check_result(cudaDeviceGetAttribute(&value, attribute, device), "that asks for the limits of the device");
  return value;
}

Limits ask_limits(int device) {
  return {attribute_of(device, cudaDevAttrMultiProcessorCount),
          attribute_of(device, cudaDevAttrMaxSharedMemoryPerBlockOptin),
          10 * attribute_of(device, cudaDevAttrComputeCapabilityMajor) +
              attribute_of(device, cudaDevAttrComputeCapabilityMinor)};
}

std::string current_capability() {
  int device, major, minor;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess)
    return "an unknown one";
  return std::to_string(major) + "." + std::to_string(minor);
}

std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

} // namespace

const Limits &limits_of(int device) {
  static std::mutex mutex;
  static std::deque<std::optional<Limits>> known; // whose elements stay where they are
  std::lock_guard lock(mutex);
  while (known.size() <= static_cast<size_t>(device))
    known.emplace_back();
  if (!known[device])
    known[device] = ask_limits(device);
  return *known[device];
}

void check_result(cudaError_t result, const char *kernel) {
  if (result == cudaSuccess)
    return;
  cudaGetLastError(); // or torch would find the error in a call of its own
  if (result == cudaErrorInsufficientDriver) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    fail("kernel ", kernel, ": the CUDA ", version_name(CUDART_VERSION),
         " that kerneldna_ops was built with needs a newer driver than the one installed, which is for CUDA ",
         version_name(driver), " at most");
  }
  if (result == cudaErrorNoKernelImageForDevice)
    fail("kernel ", kernel, " was not compiled for this GPU: it has compute capability ", current_capability(),
         ", the oldest that kerneldna_ops is built for is 8.0");
  fail("kernel ", kernel, ": ", cudaGetErrorString(result));
}

void allow_shared_bytes(const void *kernel, const Launch &launch) {
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (launch.shared_bytes > kAlwaysAllowed)
    check_result(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(launch.shared_bytes)),
                 launch.kernel);
}

} // namespace kerneldna::cuda

#endif
