// Runs a kernel's own source on the CPU: one OS thread, in which each thread of a block is a fiber.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Of the thread that runs at the moment.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace kerneldna::cuda {

struct Launch;

namespace host_execution {

// Throws a std::runtime_error if a thread does, or if the kernel does what a GPU leaves undefined: one sentence that
// names the kernel, the block and the thread.
void run(const Launch &launch, const std::function<void()> &kernel);

// For the functions of CUDA, which are called in a kernel.
std::byte *shared_memory();
size_t shared_bytes();
void synchronize_warp();
void synchronize_block();
void note_wait_for_previous_kernel();

inline constexpr int kWarpSize = 32;

// Where the lanes of a warp leave what they bring to an instruction of the whole warp.
struct Exchange {
  alignas(64) uint32_t words[kWarpSize][8];
  const void *rows[kWarpSize];
  alignas(64) float product[16][8];
};

// What the next meeting of this warp exchanges. It stays as it is until the meeting after that one.
Exchange &exchange();
int lane_index();

// Waits for the other 31 lanes; true in the one that comes last, which goes on first.
bool meet(const char *instruction);

class Copies;
Copies &copies();

} // namespace host_execution
} // namespace kerneldna::cuda
