// The one place where a kernel is launched, on a GPU or, in host execution, on the CPU.
#pragma once

#include "platform.h"

#include <sstream>
#include <stdexcept>
#include <string>
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
  int compiled;     // the architecture for which the code that runs there was compiled: 80, 86, 90, ...
};

constexpr int kOldestCapability = 80;

// What the driver says of a device, which has to be current when it is first asked for.
struct Device {
  std::string refusal; // why the library's kernels cannot run there, or nothing
  Limits limits;
};
const Device &device_of(int device);
const Limits &limits_of(int device); // throws the refusal
Device ask_device(int device);       // anew: device_of remembers

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

// Throws the sentence that belongs to an error of the runtime.
void check_result(cudaError_t result, const char *kernel);

// Lets a kernel have all the shared memory of its device, once. Were it the amount of each launch, another thread could
// set a smaller one in between.
void allow_shared_memory(const void *kernel, const Launch &launch);

// Whether the launch may tell the driver that it overlaps the previous one: older code has no instruction to wait.
bool may_overlap(const Launch &launch);

#ifdef KERNELDNA_HOST_EXECUTION

template <class... Params>
void launch(void (*kernel)(Params...), const Launch &where, const std::type_identity_t<Params> &...params) {
  check_launch(where);
  allow_shared_memory(reinterpret_cast<const void *>(kernel), where);
  host_execution::run(where, [&] { kernel(params...); });
}

#else

template <class... Params>
void launch(void (*kernel)(Params...), const Launch &where, const std::type_identity_t<Params> &...params) {
  check_launch(where);
  allow_shared_memory(reinterpret_cast<const void *>(kernel), where);
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = where.grid;
  config.blockDim = where.block;
  config.dynamicSmemBytes = where.shared_bytes;
  config.stream = static_cast<cudaStream_t>(where.stream.handle);
  config.attrs = &overlap;
  config.numAttrs = may_overlap(where) ? 1 : 0;
  check_result(cudaLaunchKernelEx(&config, kernel, params...), where.kernel);
}

#endif

} // namespace kerneldna::cuda
