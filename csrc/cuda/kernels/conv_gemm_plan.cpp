// Which tile a call of conv_gemm gets, and into how many parts its K is cut.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_gemm.h"

#include <algorithm>
#include <iterator>

namespace kerneldna::cuda {
namespace {

// An estimate, to compare tiles by (tuning.h). A step costs its products at the rate that tiles of this size reach, or,
// where a multiprocessor has one block, its latency at least.
double cycles(const TileForm &form, int64_t tiles, int64_t steps, int64_t splits, int multiprocessors) {
  const int size = form.block_m * form.block_n;
  const double step = double(size) * form.block_k / (kProductsPerCycle * rate_share(form));
  const auto blocks = double(ceil_divide(tiles * splits, multiprocessors));
  const double main = double(ceil_divide(steps, splits)) * std::max(blocks * step, kStepLatency);
  if (splits == 1)
    return main;
  return main + kFinishLaunch + double(tiles * splits) * form.block_m * form.block_n * 2 / kPartialsPerCycle;
}

} // namespace

ConvGemmPlan plan_conv_gemm(const ConvGemm &call, const Limits &limits) {
  const Geometry &g = call.geometry;
  ConvGemmPlan plan{};
  double best = -1;
  for (int i = 0; i < int(std::size(kTileForms)); ++i) {
    const TileForm &form = kTileForms[i];
    if (form.capability && (form.capability != limits.capability || form.capability != limits.compiled))
      continue;
    const bool is_scaled = call.input_scale.data;
    const int64_t rows = form.block_m + form.block_n + (is_scaled ? samples_of_tile(form.block_m, g) + 1 : 0);
    const int64_t stage = rows * (form.block_k + 8) * 2 + (is_scaled ? form.block_m * sizeof(int) : 0);
    if (i > 0 && stage * form.stages + form.block_m * 16 > limits.shared_bytes)
      continue;
    const int64_t tiles = ceil_divide(g.batch * g.out_height * g.out_width, form.block_m) *
                          ceil_divide(g.out_channels / g.groups, form.block_n) * g.groups;
    const int64_t steps =
        int64_t(g.kernel_height) * g.kernel_width * ceil_divide(g.in_channels / g.groups, form.block_k);
    for (int64_t splits = 1; splits <= std::min<int64_t>(kMostSplits, steps); splits += splits < 4 ? 1 : splits / 2) {
      const double cost = cycles(form, tiles, steps, splits, limits.multiprocessors);
      if (best >= 0 && cost >= best)
        continue;
      best = cost;
      plan = {i, int(splits), splits > 1 ? tiles * splits * form.block_m * form.block_n : 0};
    }
  }
  return plan;
}

void conv_gemm(const ConvGemm &call, Stored stored, const ConvGemmPlan &plan, float *partial, Stream stream) {
  const bool is_wgmma = kTileForms[plan.form].capability == 90;
  if (stored == Stored::f16)
    (is_wgmma ? conv_gemm_wgmma_f16 : conv_gemm_f16)(call, plan, partial, stream);
  else
    (is_wgmma ? conv_gemm_wgmma_bf16 : conv_gemm_bf16)(call, plan, partial, stream);
}

} // namespace kerneldna::cuda

#endif
