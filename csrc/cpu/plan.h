// Plans and runs a convolution, forward or input gradient: chooses the kernel, packs the weight if that kernel wants
// it, cuts the work into units for the threads.
#pragma once

#include "host.h"

namespace kerneldna::cpu {

// channels_last in effect, whatever the strides between pixels.
bool has_adjacent_channels(const Image &image);

// Whether run_conv takes images that lie in memory so. With a kernel for each sample, dense convolutions of NCHW images
// are those of large maps alone: on small ones pixels of several samples would have to share vectors.
bool fits_layout(const ConvParams &conv, ScalarType dtype);

// Sets conv.tiles, which depends on the shape alone, not on the number of threads, so that sums over tiles come out the
// same for any.
void plan_tiles(ConvParams &conv, ScalarType dtype);

// weight_group, weight_row, weight_channel and taps[].weight say where the weight stands; the rest of the weight's
// description is filled in here.
void run_conv(ConvParams &conv, ScalarType dtype);

} // namespace kerneldna::cpu
