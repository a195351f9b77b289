// Which tile a call of conv_gemm gets, and into how many parts its K is cut.
#if defined(KERNELDNA_WITH_CUDA) || defined(KERNELDNA_HOST_EXECUTION)

#include "conv_gemm.h"
#include "lattice.h"

#include <algorithm>
#include <span>

namespace kerneldna::cuda {
namespace {

std::span<const TileForm> forms_of(ConvMath math) {
  if (math == ConvMath::tf32)
    return kTf32Forms;
  return kHalfForms;
}

int size_of(ConvMath math) { return math == ConvMath::tf32 ? 4 : 2; }

// Estimates of cycles, to compare tiles by. A step costs its products at the share of the tensor cores' rate that tiles
// of this size reach, or, where a multiprocessor has one block, its latency at least. The tensor cores of sm_90 are
// twice as fast, but by wgmma alone, and then wait for the L2 cache.
constexpr double kProductsPerCycle = 1024, kStepLatency = 250, kFinishLaunch = 3000, kPartialsPerCycle = 500;
constexpr int kMostSplits = 32;

double cycles(const TileForm &form, int64_t tiles, int64_t steps, int64_t splits, int multiprocessors) {
  const int size = form.block_m * form.block_n;
  const bool largest = size > 128 * 128, large = size >= 128 * 128, is_wgmma = form.capability == 90;
  const double share = is_wgmma ? (largest ? 1.5 : large ? 1.3 : 0.95) : large ? 0.8 : size >= 128 * 64 ? 0.7 : 0.6;
  const double step = double(size) * form.block_k / (kProductsPerCycle * share);
  const auto blocks = double(ceil_divide(tiles * splits, multiprocessors));
  const double main = double(ceil_divide(steps, splits)) * std::max(blocks * step, kStepLatency);
  if (splits == 1)
    return main;
  return main + kFinishLaunch + double(tiles * splits) * form.block_m * form.block_n * 2 / kPartialsPerCycle;
}

} // namespace

ConvGemmPlan plan_conv_gemm(const ConvGemm &call, ConvMath math, const Limits &limits) {
  const Geometry &g = call.geometry;
  const std::span<const TileForm> forms = forms_of(math);
  const Lattice first = lattice_of(g, call.transposed, 0, 0);
  const Lattice smallest = lattice_of(g, call.transposed, lattice_classes(g, call.transposed, 0) - 1,
                                      lattice_classes(g, call.transposed, 1) - 1);
  const int64_t source_channels = (call.transposed ? g.out_channels : g.in_channels) / g.groups;
  const int64_t target_channels = (call.transposed ? g.in_channels : g.out_channels) / g.groups;
  ConvGemmPlan plan{};
  double best = -1;
  int64_t best_tiles = 0;
  for (int i = 0; i < int(forms.size()); ++i) {
    const TileForm &form = forms[i];
    const int64_t samples = samples_of_tile(form.block_m, smallest.pixels(), g.batch);
    if (form.capability && (form.capability != limits.capability || form.capability != limits.compiled))
      continue;
    const bool is_scaled = call.source_scale.data;
    const int64_t rows = form.block_m + form.block_n + (is_scaled ? samples + 1 : 0);
    const int64_t stage = rows * (form.block_k + 8) * size_of(math) + (is_scaled ? form.block_m * sizeof(int) : 0);
    if (i > 0 && stage * form.stages + form.block_m * 16 > limits.shared_bytes)
      continue;
    const int64_t tiles =
        lattice_tiles(g, call.transposed, form.block_m) * ceil_divide(target_channels, form.block_n) * g.groups;
    const int64_t steps = std::max<int64_t>(first.taps() * ceil_divide(source_channels, form.block_k), 1);
    for (int64_t splits = 1; splits <= std::min<int64_t>(kMostSplits, steps); splits += splits < 4 ? 1 : splits / 2) {
      const double cost = cycles(form, tiles, steps, splits, limits.multiprocessors);
      if (best < 0 || cost < best) {
        best = cost;
        best_tiles = tiles;
        plan.form = i;
        plan.splits = int(splits);
      }
      if (call.by_tap)
        break;
    }
  }
  const TileForm &form = forms[plan.form];
  if (plan.splits > 1)
    plan.partials = best_tiles * plan.splits * form.block_m * form.block_n;
  plan.sum_rows = form.block_m * form.block_n / form.threads;
  plan.sum_slots = lattice_slots(g, call.transposed, plan.sum_rows);
  return plan;
}

void conv_gemm(const ConvGemm &call, ConvMath math, const ConvGemmPlan &plan, float *partial, Stream stream) {
  const bool is_wgmma = forms_of(math)[plan.form].capability == 90;
  switch (math) {
  case ConvMath::f16:
    return (is_wgmma ? conv_gemm_wgmma_f16 : conv_gemm_f16)(call, plan, partial, stream);
  case ConvMath::bf16:
    return (is_wgmma ? conv_gemm_wgmma_bf16 : conv_gemm_bf16)(call, plan, partial, stream);
  case ConvMath::tf32:
    return conv_gemm_tf32(call, plan, partial, stream);
  }
}

} // namespace kerneldna::cuda

#endif
