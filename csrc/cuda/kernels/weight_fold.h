// Static attentions and the weight. They are the same for every sample, so they are multiplied into the weight once
// before a convolution, and their gradients follow from that of the weight that it multiplied with:
//
//     V[o, t, i] = W[o, i, t] f[o] s[t] c[i]
//     dW = dV f s c     df[o] = sum_{t, i} dV W s c     ds[t] = sum_{o, i} dV W f c     dc[i] = sum_{o, t} dV W f s
//
// i counts the channels of a group in W and V; c and dc have those of all groups, and a filter meets those of its own.
#pragma once

#include "dtypes.h"
#include "geometry.h"
#include "launch.h"

namespace kerneldna::cuda {

// A weight as the caller stores it; strides in elements.
struct Weight {
  void *data;
  int64_t filter_stride, channel_stride, height_stride, width_stride;
};

struct WeightFold {
  Geometry geometry;
  Weight weight;
  const void *channel, *filter, *spatial; // static attentions: [C_in], [C_out], [taps], or null
};

// V, [C_out, taps, C_in / groups], contiguous, of what the weight stores.
void fold_weight(const WeightFold &fold, void *folded, Stored stored, Stream stream);

struct WeightUnfold {
  WeightFold fold;
  const float *partial; // dV in parts, [parts, C_out, taps, C_in / groups]
  int parts;
  Weight grad_weight;                              // these four of what the weight stores; null where not wanted
  void *grad_channel, *grad_filter, *grad_spatial; // contiguous
};

// How many numbers unfold_weight takes as workspace.
int64_t unfold_workspace(const WeightUnfold &unfold);
void unfold_weight(const WeightUnfold &unfold, float *workspace, Stored stored, Stream stream);

} // namespace kerneldna::cuda
