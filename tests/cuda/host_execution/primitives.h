// Small kernels that try the parts of host execution one by one, for tests/cuda/test_host_execution.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kerneldna::cuda::host_execution {

// What each lane of a warp receives that brings values[lane]: kind "index", "xor" or "down", several times in a row.
std::vector<double> try_shuffle(const std::string &kind, const std::vector<double> &values, int argument, int width,
                                int times);

// The four registers of each lane, of 16-bit numbers in shared memory; lane l names the row at row_offsets[l].
std::vector<std::vector<uint32_t>> try_ldmatrix(const std::vector<uint16_t> &numbers,
                                                const std::vector<int> &row_offsets);

// d += a b for the registers of each lane: "f16" or "bf16".
std::vector<std::vector<float>> try_mma(const std::string &operand, const std::vector<std::vector<uint32_t>> &a,
                                        const std::vector<std::vector<uint32_t>> &b, std::vector<std::vector<float>> d);

// The 64 sums of each of 128 threads after two products of their registers of a with the operand that the descriptor
// finds in shared memory full of numbers: "f16" or "bf16".
std::vector<std::vector<float>> try_wgmma(const std::string &operand, int columns, const std::vector<uint16_t> &numbers,
                                          uint64_t descriptor, const std::vector<std::vector<uint32_t>> &a);
void try_wgmma_misuse(const std::string &what);

// Each value rounded to "f16" or "bf16".
std::vector<float> try_round(const std::string &dtype, const std::vector<float> &values);

// What 32 bytes of shared memory hold of two asynchronous copies of 16 bytes, from source + offset and from 16 further
// on, to their start and their middle: before the copies, after they started, after the waits for the first and the
// second.
std::vector<std::vector<uint8_t>> try_copies(const std::vector<uint8_t> &source, int64_t offset, bool valid);

// Each thread leaves its index in shared memory and reads that of the thread after it, with what orders the two:
// "block", "warp" or "none".
std::vector<int> try_neighbours(int threads, const std::string &barrier);

// The indices of the threads of a block, each twice, in the order in which they came to the two sides of a __syncwarp.
std::vector<int> try_thread_order(int threads);

// The linear indices of the blocks of a grid, in the order in which they ran.
std::vector<unsigned> try_block_order(const std::vector<unsigned> &grid);

// Runs a kernel that does what a GPU leaves undefined, if not said otherwise.
void try_misuse(const std::string &what);

} // namespace kerneldna::cuda::host_execution
