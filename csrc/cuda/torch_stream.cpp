#ifdef KERNELDNA_WITH_CUDA

#include "torch_stream.h"

#include <atomic>
#include <dlfcn.h>
#include <stdexcept>

namespace kerneldna::cuda {
namespace {

using CurrentStream = int32_t (*)(int32_t device, void **stream); // 0 is success

// Only a CUDA build of torch has the function, in libtorch_cuda.so. Linking that would bind the library to one; a weak
// symbol would be found only where the linker happens to keep libtorch.so, which leads to libtorch_cuda.so, among the
// libraries needed: Python loads all of torch's out of sight of others. A program that has torch linked into itself
// shows the function to everybody.
CurrentStream find() {
  constexpr const char *name = "aoti_torch_get_current_cuda_stream";
  void *function = dlsym(RTLD_DEFAULT, name);
  if (!function)
    if (void *torch_cuda = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY)) // and stays open
      function = dlsym(torch_cuda, name);
  return reinterpret_cast<CurrentStream>(function);
}

CurrentStream current_stream() {
  static std::atomic<CurrentStream> found{nullptr};
  CurrentStream function = found.load(std::memory_order_relaxed);
  if (!function)
    found.store(function = find(), std::memory_order_relaxed);
  return function;
}

} // namespace

std::string torch_stream_missing() {
  return current_stream() ? "" : "this PyTorch was built without CUDA, and so has no CUDA stream to run on";
}

void *torch_stream(int32_t device) {
  const CurrentStream function = current_stream();
  if (!function)
    throw std::runtime_error("kerneldna: " + torch_stream_missing());
  void *stream = nullptr;
  if (function(device, &stream) != 0)
    throw std::runtime_error("kerneldna: PyTorch gave no current CUDA stream of cuda:" + std::to_string(device));
  return stream;
}

} // namespace kerneldna::cuda

#endif
