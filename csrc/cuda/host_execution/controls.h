// What a test sets and sees of the execution.
#pragma once

#include "../kernels/launch.h"

#include <cstdint>
#include <string>
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

// Of the only device that there is.
void set_limits(const Limits &limits);

// Every launch since the last clear.
struct LaunchRecord {
  std::string kernel;
  dim3 grid, block;
  size_t shared_bytes;
};
const std::vector<LaunchRecord> &launches();
void clear_launches();

} // namespace kerneldna::cuda::host_execution
