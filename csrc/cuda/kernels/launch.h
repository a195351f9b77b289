// The one place where a kernel is launched, on a GPU or, in host execution, on the CPU.
#pragma once

#include "platform.h"

#include <sstream>
#include <stdexcept>
#include <type_traits>

namespace kerneldna::cuda {

struct Stream {
  void *handle; // cudaStream_t
  int device;
};

// What a kernel's launch may ask for on a device.
struct Limits {
  int multiprocessors;
  int shared_bytes; // of one block, at most
  int capability;   // 80, 86, 90, ...
};
const Limits &limits_of(int device);

constexpr int kOldestCapability = 80;

// Blocks of a launch, in the width that sizes are computed in: check_launch sees what dim3 would have cut off.
struct Grid {
  int64_t x, y, z;
  constexpr Grid(int64_t x = 1, int64_t y = 1, int64_t z = 1) : x(x), y(y), z(z) {}
  operator dim3() const { return dim3(unsigned(x), unsigned(y), unsigned(z)); }
};

struct Launch {
  const char *kernel; // named in errors
  Grid grid;
  dim3 block;
  size_t shared_bytes;
  Stream stream;
  // May start while the kernel before it in the stream still runs, which must call let_next_kernel_start; this one
  // calls wait_for_previous_kernel before it reads anything of that one's (ptx.h).
  bool overlaps_previous = false;
};

// One sentence, thrown as a std::runtime_error.
template <class... Parts> [[noreturn]] void fail(const Parts &...parts) {
  std::ostringstream sentence;
  (sentence << ... << parts);
  throw std::runtime_error(sentence.str());
}

// Throws before anything is launched if the device cannot run it: grid past the limits, too much shared memory.
void check_launch(const Launch &launch);

#ifdef KERNELDNA_HOST_EXECUTION

template <class... Params>
void launch(void (*kernel)(Params...), const Launch &where, const std::type_identity_t<Params> &...params) {
  check_launch(where);
  host_execution::run(where, [&] { kernel(params...); });
}

#else

// Throws the sentence that belongs to an error of the runtime.
void check_result(cudaError_t result, const char *kernel);
void allow_shared_bytes(const void *kernel, const Launch &launch);

template <class... Params>
void launch(void (*kernel)(Params...), const Launch &where, const std::type_identity_t<Params> &...params) {
  check_launch(where);
  allow_shared_bytes(reinterpret_cast<const void *>(kernel), where);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = where.grid;
  config.blockDim = where.block;
  config.dynamicSmemBytes = where.shared_bytes;
  config.stream = static_cast<cudaStream_t>(where.stream.handle);
  config.attrs = &overlap;
  config.numAttrs = where.overlaps_previous && limits_of(where.stream.device).capability >= 90 ? 1 : 0;
  check_result(cudaLaunchKernelEx(&config, kernel, params...), where.kernel);
}

#endif

} // namespace kerneldna::cuda
