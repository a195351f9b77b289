// What a test sets and sees of the execution.
#pragma once

#include "kernels/launch.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kerneldna::cuda::host_execution {

// In which order things happen that a GPU does in any. Each order shows other mistakes in the results.
enum class BlockOrder { ascending, descending, shuffled };
enum class ThreadOrder {
  round_robin, // each until it has to wait, in turn
  first_ahead, // lower warps as far as they can before higher ones, in each lower lanes before higher ones
  last_ahead,  // the other way round
};
struct Schedule {
  BlockOrder blocks = BlockOrder::ascending;
  ThreadOrder threads = ThreadOrder::round_robin;
  uint64_t seed = 0; // of the shuffle
};
void set_schedule(const Schedule &schedule);

// The only GPU that there is, by default an A100, with the library's code for it and its driver.
struct Gpu {
  int multiprocessors = 108, shared_bytes = 163 << 10, capability = 80;
  int compiled = 80;
  int driver = CUDART_VERSION;
  cudaError_t error = cudaSuccess; // of the driver when it is asked about the kernels
};
void set_gpu(const Gpu &gpu);

// Each kernel that was allowed more shared memory than a block has by default, with the bytes.
const std::vector<std::pair<const void *, int>> &allowed_shared_bytes();

// Every launch since the last clear.
struct LaunchRecord {
  std::string kernel;
  dim3 grid, block;
  size_t shared_bytes;
  bool overlaps; // as the driver is told
};
const std::vector<LaunchRecord> &launches();
void clear_launches();

} // namespace kerneldna::cuda::host_execution
