// Squeeze-and-excitation for inference: gate [N, C] = sigmoid(W2 relu(W1 m + b1) + b2), with m [N, C] the means of
// x [N, C, H, W] over the pixels, W1 [R, C] and W2 [C, R].
//
// There is next to no arithmetic, x is read once, and what costs is waiting: for the launch, and for memory three times
// over, since the features wait for all means and the gate for all features. So there are two schedules:
//
//     one launch     a block for each sample does everything. It waits least where the pixels and both weights are few
//                    enough that one multiprocessor reads them in about the time that a second launch would take.
//     two launches   for all else. W1 m is a sum over channels and pixels, so the first launch shares both out among
//                    enough blocks to fill the GPU, each of which multiplies its means by its columns of W1. The second
//                    starts while the first still runs, reads its rows of W2 meanwhile, adds the products up and works
//                    out its share of the gate. Where there are many samples, some of them share a block, and with it
//                    what it reads of the weights.
//
// All sums run in float32, in an order that does not change from run to run.
#pragma once

#include "dtypes.h"
#include "launch.h"

namespace kerneldna::cuda {

struct SqueezeExcite {
  const void *input; // any strides, in elements
  int64_t batch, sample_stride, channel_stride, row_stride, column_stride;
  int channels, height, width, hidden;
  const void *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias; // contiguous; a bias that is absent is null
  void *gate;                                                // [batch, channels]
  int shares;                                                // what shares_of_sample says
  void *products; // float32 [batch, shares, hidden], to write in; unused where shares is 0
};

// How many blocks share a sample in the first of two launches; 0 where one launch does it all. Takes no account of
// `shares` and `products`.
int shares_of_sample(const SqueezeExcite &se, Stored stored, const Limits &limits);

void squeeze_excite(const SqueezeExcite &se, Stored stored, Stream stream);

} // namespace kerneldna::cuda
