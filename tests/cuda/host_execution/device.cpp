#include "controls.h"

namespace {

using kerneldna::cuda::host_execution::Gpu;

Gpu gpu;
std::vector<std::pair<const void *, int>> allowed; // kernels, bytes of shared memory

cudaError_t result_of_any_call() { return gpu.driver < CUDART_VERSION ? cudaErrorInsufficientDriver : cudaSuccess; }

} // namespace

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
  case cudaDevAttrMultiProcessorCount:
    *value = gpu.multiprocessors;
    break;
  case cudaDevAttrMaxSharedMemoryPerBlockOptin:
    *value = gpu.shared_bytes;
    break;
  case cudaDevAttrComputeCapabilityMajor:
    *value = gpu.capability / 10;
    break;
  case cudaDevAttrComputeCapabilityMinor:
    *value = gpu.capability % 10;
    break;
  }
  return result_of_any_call();
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = gpu.driver;
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
  attributes->ptxVersion = gpu.compiled;
  return gpu.error ? gpu.error : result_of_any_call();
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute, int value) {
  allowed.emplace_back(kernel, value);
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char *cudaGetErrorString(cudaError_t) { return "the error that the test asked for"; }

namespace kerneldna::cuda {
namespace {

Device asked = ask_device(0);

} // namespace

const Device &device_of(int) { return asked; }

namespace host_execution {

void set_gpu(const Gpu &value) {
  gpu = value;
  asked = ask_device(0);
}

const std::vector<std::pair<const void *, int>> &allowed_shared_bytes() { return allowed; }

} // namespace host_execution
} // namespace kerneldna::cuda
