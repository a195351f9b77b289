// The kernels of one instruction set, and which set this processor runs.
#pragma once

#include "squeeze_excite_params.h"

namespace kerneldna::cpu {

struct KernelTable {
  const char *name;
  int rows; // kRows of microkernel.h: the block in which a weight is packed
  int float_lanes;
  int panel_vectors; // kPanelVectors of microkernel.h: the most that a packed panel is wide
  // By Stored; each does units [begin, end) of its work.
  void (*gemm_nchw[4])(const ConvParams &, int64_t begin, int64_t end);
  void (*gemm_nhwc[4])(const ConvParams &, int64_t begin, int64_t end);
  void (*pack_panels[4])(const PackPanels &, int64_t begin, int64_t end);
  void (*depthwise_nchw[4])(const ConvParams &, int64_t begin, int64_t end);
  void (*depthwise_nhwc[4])(const ConvParams &, int64_t begin, int64_t end);
  void (*gemm_weight_grad[4])(const WeightGradParams &, int64_t begin, int64_t end);
  void (*depthwise_nchw_weight_grad[4])(const WeightGradParams &, int64_t begin, int64_t end);
  void (*depthwise_nhwc_weight_grad[4])(const WeightGradParams &, int64_t begin, int64_t end);
  void (*channel_sums[4])(const ChannelSums &, int64_t begin, int64_t end);
  void (*mix[2])(const Mixture &, int64_t begin, int64_t end); // double, float
  void (*unmix[2])(const Mixture &, int64_t begin, int64_t end);
  void (*pool[4])(const Pool &, int64_t begin, int64_t end);
  void (*dense[4])(const Dense &, int64_t begin, int64_t end);
  void (*matmul[2])(const Matmul &, int64_t begin, int64_t end); // double, float
  void (*sigmoid[4])(const void *logits, void *gates, int64_t begin, int64_t end);
};

extern const KernelTable kPortableKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels, kAvx512Kernels;
#endif

const KernelTable &kernels(); // isa.cpp

} // namespace kerneldna::cpu
