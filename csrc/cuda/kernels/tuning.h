// The numbers by which the CUDA kernels are tuned: tiles, threads, thresholds. No GPU has run these kernels yet, so
// that all of them are estimates for an A100 (sm_80) or an H100 (sm_90), from the sizes of their memories and rates;
// whoever measures one says here where. What a number means for registers and shared memory is in
// benchmarks/results/compile/cuda.md.
#pragma once

#include <cstdint>

namespace kerneldna::cuda {

// conv_gemm.h: the tiles that are compiled.
struct TileForm {
  int block_m, block_n, block_k, threads, stages;
  int capability = 0; // of the only GPUs that it is for, and of the only code
};
inline constexpr TileForm kTileForms[] = {{128, 128, 32, 256, 3},     {128, 64, 32, 128, 3},
                                          {64, 64, 32, 128, 4},       {128, 256, 64, 256, 4, 90},
                                          {128, 128, 64, 256, 3, 90}, {128, 64, 64, 256, 3, 90}};
constexpr int kLeastTileChannels = 64; // block_n of the smallest

// A tile of a group with fewer channels is more than half empty, in the output or, as K, in what is summed over.
constexpr int kLeastGroupChannels = kLeastTileChannels / 2;

// conv_gemm_plan.cpp: estimates of cycles, to compare tiles by.
constexpr double kProductsPerCycle = 1024; // of a multiprocessor's tensor cores on sm_80
constexpr double kStepLatency = 250;       // of a step along K, where a multiprocessor has one block
constexpr double kFinishLaunch = 3000;     // another launch, which adds up the parts of K
constexpr double kPartialsPerCycle = 500;  // float32 numbers that all blocks together write and read again
constexpr int kMostSplits = 32;            // of K

// The share of the tensor cores' rate that a tile reaches. Those of sm_90 are twice as fast, but by wgmma alone, and
// then wait for the L2 cache.
constexpr double rate_share(const TileForm &form) {
  const int size = form.block_m * form.block_n;
  if (form.capability == 90)
    return size > 128 * 128 ? 1.5 : size == 128 * 128 ? 1.3 : 0.95;
  return size >= 128 * 128 ? 0.8 : size >= 128 * 64 ? 0.7 : 0.6;
}

// Depthwise kernels (conv_depthwise.h).
constexpr int kDepthwiseThreads = 128;
constexpr int kBlocksPerMultiprocessor = 4; // that a launch wants, to fill the GPU
constexpr int kRunPixels = 4;               // side by side in a row, which one thread takes at a time
constexpr int kConvPixelsPerThread = 32;    // to spread the cost of folding the weight
constexpr int kGradPixelsPerThread = 16;    // of a row: x and gy of all threads of a block stay in the cache

namespace squeeze { // squeeze_excite.h

// What one multiprocessor reads, of a sample and of both weights, in about the time that a second launch costs: some
// 50 bytes a clock from the L2 cache against 2 us.
constexpr int64_t kOneLaunchBytes = 192 * 1024;
// Features, or logits, for which a block has room in shared memory also where samples share it.
constexpr int64_t kMostInShared = 1024;
// For each multiprocessor, in the first of two launches: two at a time, and two to be done when these are.
constexpr int64_t kBlocks = 4;
// Of a sample's slab, that are worth a block.
constexpr int64_t kPartBytes = 16 * 1024;
// The samples that share what a block reads of the weights where there are many; so many have room in its registers.
constexpr int kSharing = 4;
constexpr int kMostThreads = 512;    // of the kernel that is one launch, and of the second of two
constexpr int kSqueezeThreads = 256; // of the first of two
constexpr int kSlab = 64; // channels of a block: 128 bytes of each pixel, and of each row of fc1, in 16-bit numbers
// Loads of x that a thread has under way. At 512 threads and 16 bytes that is 64 KB, about what a multiprocessor must
// have asked for to be served at its full rate.
constexpr int kLoads = 8;
// Steps that are added up by themselves, lest a long sum round the same way again and again.
constexpr int kSteps = 32;

} // namespace squeeze
} // namespace kerneldna::cuda
