// Which blocks of threads a weight's gradient gets, and into how many parts its pixels are cut.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_weight_gradient.h"

#include <algorithm>

namespace kerneldna::cuda {
namespace {

// The parts are read once more, so they must not grow beyond what a GPU's cache holds or so.
constexpr int64_t kMostPartialBytes = int64_t(64) << 20;
// In steps, what a block costs besides its steps: filling the pipeline, writing its part and reading it again.
constexpr int64_t kStepsBeside = 8;
// Of the GPU, that are tried: with these a plan costs at most 4 % more than the best of all, by this estimate.
constexpr int64_t kTurns = 16;

} // namespace

void plan_conv_weight_gradient(ConvWeightGradient &gradient, Stored stored, const Limits &limits) {
  const Geometry &g = gradient.geometry;
  const int64_t filters = g.out_channels / g.groups, channels = g.in_channels / g.groups;
  const int64_t taps = int64_t(g.kernel_height) * g.kernel_width;
  gradient.block = size_of(stored) == 2 && filters > 64 && channels > 64 ? 128 : 64;

  // Tiles of a step are as large, in bytes, for all numbers; those of blocks of 128, which come two at a time on a
  // multiprocessor where others come four at a time, have as many rows as those of 64.
  const int64_t rows = 64 / size_of(stored), steps = ceil_divide(g.batch * g.out_height * g.out_width, rows);
  const int64_t blocks = ceil_divide(filters, gradient.block) * ceil_divide(channels, gradient.block) * g.groups * taps;
  const int64_t at_once = int64_t(limits.multiprocessors) * (gradient.block == 128 ? 2 : 4);
  const int64_t least = std::max<int64_t>(1, ceil_divide(steps * rows, int64_t(1) << 30)); // the kernel counts in ints
  const int64_t most = kMostPartialBytes / (g.out_channels * taps * channels * int64_t(sizeof(float)));

  gradient.parts = 0;
  gradient.steps = 0;
  if (steps == 0)
    return;
  // As many parts as the GPU takes at once in one turn, two turns, and so on: any less would leave it idle.
  const int64_t first_turn = ceil_divide(blocks * least, at_once);
  int64_t best = INT64_MAX;
  for (int64_t turns = first_turn; turns < first_turn + kTurns; ++turns) {
    const int64_t wanted = std::max(least, std::min({turns * at_once / blocks, most, at_once, steps}));
    const int64_t steps_of_part = ceil_divide(steps, wanted), parts = ceil_divide(steps, steps_of_part);
    const int64_t cost = ceil_divide(blocks * parts, at_once) * (steps_of_part + kStepsBeside);
    if (cost >= best)
      continue;
    best = cost;
    gradient.parts = int(parts);
    gradient.steps = int(steps_of_part);
  }
}

void conv_weight_gradient(const ConvWeightGradient &gradient, Stored stored, Stream stream) {
  if (gradient.parts == 0)
    return;
  switch (stored) {
  case Stored::f32:
    return conv_weight_gradient_f32(gradient, stream);
  case Stored::f16:
    return conv_weight_gradient_f16(gradient, stream);
  case Stored::bf16:
    return conv_weight_gradient_bf16(gradient, stream);
  }
}

} // namespace kerneldna::cuda

#endif
