// `sanitized_kernels NAME` runs one small kernel, right or wrong, for test_host_execution_sanitizers.py.
#include "host_execution/primitives.h"
#include "kernels/launch.h"
#include "kernels/ptx.h"

#include <cstdio>
#include <string>
#include <vector>

using namespace kerneldna::cuda;

namespace {

constexpr unsigned kThreads = 64;
constexpr unsigned kShared = 16 * kThreads;

struct Case {
  bool barrier = true, distinct_blocks = true;
  int past = 0; // bytes by which the last thread goes too far
};

__global__ void write_by_blocks(Case what, int *out) {
  out[threadIdx.x + (what.distinct_blocks ? blockIdx.x * blockDim.x : 0)] = blockIdx.x;
}

__global__ void read_a_neighbours_copy(Case what, const int4 *source, int *out) {
  KERNELDNA_SHARED(shared);
  int4 *copies = reinterpret_cast<int4 *>(shared);
  const int thread = threadIdx.x;
  __syncthreads(); // orders nothing of what follows, nor does the last one
  cp_async(copies + thread, source + thread + what.past / 16, true);
  cp_async_commit();
  cp_async_wait<0>();
  if (what.barrier)
    __syncthreads();
  out[thread] = copies[(thread + 1) % kThreads].x;
  __syncthreads();
}

__global__ void load_matrices(Case what) {
  KERNELDNA_SHARED(shared);
  reinterpret_cast<int4 *>(shared)[threadIdx.x] = {};
  if (what.barrier)
    __syncwarp();
  uint32_t registers[4];
  ldmatrix_x4(registers, shared + 16 * threadIdx.x);
}

__global__ void write_shared(Case what) {
  KERNELDNA_SHARED(shared);
  shared[threadIdx.x + (kShared - kThreads) + what.past] = 0;
}

void run(const std::string &name, const Case &what) {
  const auto launched = [](const char *kernel, unsigned blocks) {
    return Launch{kernel, blocks, kThreads, kShared, {}};
  };
  std::vector<int> out(4 * kThreads);
  const std::vector<int4> source(kThreads);
  if (name == "blocks")
    launch(write_by_blocks, launched("write_by_blocks", 4), what, out.data());
  else if (name == "copies")
    launch(read_a_neighbours_copy, launched("read_a_neighbours_copy", 2), what, source.data(), out.data());
  else if (name == "matrices")
    launch(load_matrices, launched("load_matrices", 2), what);
  else if (name == "shared")
    launch(write_shared, launched("write_shared", 2), what);
}

// What is wrong in none of these; errors, too, leave nothing behind.
void run_all_that_is_right() {
  for (int again = 0; again < 2; ++again) {
    for (const char *name : {"blocks", "copies", "matrices", "shared"})
      run(name, {});
    for (const char *misuse : {"throw", "return after others", "copy without wait"})
      try {
        host_execution::try_misuse(misuse);
      } catch (const std::runtime_error &error) {
        std::puts(error.what());
      }
  }
}

} // namespace

int main(int, char **arguments) {
  const std::string name = arguments[1];
  if (name == "all that is right")
    run_all_that_is_right();
  else if (name == "a missing __syncthreads")
    run("copies", {.barrier = false});
  else if (name == "a missing __syncwarp")
    run("matrices", {.barrier = false});
  else if (name == "two blocks that write one place")
    run("blocks", {.distinct_blocks = false});
  else if (name == "a byte past the shared memory")
    run("shared", {.past = 1});
  else if (name == "a copy from past the source")
    run("copies", {.past = 16});
  else
    return 2;
  std::puts("done");
}
