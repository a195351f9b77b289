// The kernels of one instruction set, and which set this processor runs.
#pragma once

#include "squeeze_excite_params.h"

namespace kerneldna::cpu {

struct KernelTable {
  const char *name;
  int rows; // kRows of gemm.h: the block in which a weight is packed
  int float_lanes;
  int panel_vectors; // kPanelVectors of gemm.h: the most that a packed panel is wide
  // By Stored; each does units [begin, end) of its work.
  void (*conv_tiles[4])(const TileConv &, int64_t begin, int64_t end);
  void (*conv_pixels[4])(const TileConv &, int64_t begin, int64_t end);
  void (*pack_panels[4])(const PackPanels &, int64_t begin, int64_t end);
  void (*conv_planes[4])(const TileConv &, int64_t begin, int64_t end);
  void (*conv_planes_channels[4])(const TileConv &, int64_t begin, int64_t end);
  void (*weight_grad[4])(const WeightGrad &, int64_t begin, int64_t end);
  void (*plane_weight_grad[4])(const WeightGrad &, int64_t begin, int64_t end);
  void (*plane_channels_weight_grad[4])(const WeightGrad &, int64_t begin, int64_t end);
  void (*channel_sums[4])(const ChannelSums &, int64_t begin, int64_t end);
  void (*pool[4])(const Pool &, int64_t begin, int64_t end);
  void (*dense[4])(const Dense &, int64_t begin, int64_t end);
  void (*product[2])(const Product &, int64_t begin, int64_t end); // double, float
  void (*sigmoid[4])(const void *logits, void *gates, int64_t begin, int64_t end);
};

extern const KernelTable kPortableKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels, kAvx512Kernels;
#endif

const KernelTable &kernels(); // isa.cpp

} // namespace kerneldna::cpu
