#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "launch.h"

namespace kerneldna::cuda {
namespace {

template <class Size> std::string describe(const Size &size) {
  std::ostringstream text;
  text << "(" << size.x << ", " << size.y << ", " << size.z << ")";
  return text.str();
}

} // namespace

void check_launch(const Launch &launch) {
  const Limits &limits = limits_of(launch.stream.device);
  const Grid &grid = launch.grid;
  const dim3 &block = launch.block;
  if (limits.capability < kOldestCapability)
    fail("kernel ", launch.kernel, " needs a GPU of compute capability 8.0 or newer, and device ", launch.stream.device,
         " has ", limits.capability / 10, ".", limits.capability % 10);
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

} // namespace kerneldna::cuda

#endif
