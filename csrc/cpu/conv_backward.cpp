// kerneldna::conv_backward on the CPU: the gradient of the input from one pass, those of weight, f and s from another,
// and that of c from either.
#include "../box.h"
#include "../selection.h"
#include "plan.h"
#include "tuning.h"

namespace kerneldna::cpu {
namespace {

struct Call {
  ConvShape shape;
  ScalarType dtype;
  Tensor grad_output, input, weight; // addressable; weight in the dtype of the arithmetic
  Factors channel, filter, spatial;
  bool static_channel, static_filter, static_spatial;
};

// out[j] += sum over rows of in[row][j], of any number of rows
template <class T> void add_rows(double *out, const T *in, int64_t rows, int64_t count) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < count; ++j)
      out[j] += in[row * count + j];
}

// A gradient of an attention: partial [parts, batch, count] summed over the parts, and over the batch where static.
Tensor sum_partial(const Tensor &partial, bool over_batch, const Tensor &like) {
  const int64_t parts = partial.size(0), batch = partial.size(1), count = partial.size(2);
  const int64_t rows = over_batch ? parts * batch : parts, columns = over_batch ? count : batch * count;
  std::vector<double> sums(columns);
  add_rows(sums.data(), partial.const_data_ptr<double>(), rows, columns);
  const ScalarType dtype = compute_dtype(like.scalar_type());
  Tensor sum = torch::stable::empty(like.sizes(), dtype);
  if (dtype == ScalarType::Double)
    std::copy(sums.begin(), sums.end(), sum.mutable_data_ptr<double>());
  else
    std::copy(sums.begin(), sums.end(), sum.mutable_data_ptr<float>());
  return like.scalar_type() == dtype ? sum : torch::stable::to(sum, like.scalar_type());
}

// Adds the sums over tiles and samples of one pass to channel_grad [batch, channels].
template <class T> void add_tile_sums(double *channel_grad, const T *partial, const ConvParams &conv, int64_t lanes) {
  const int64_t pixels = conv.lattice_height * conv.lattice_width, channels = conv.groups * conv.out_channels;
  const int64_t all = conv.batch * pixels, vectors = (all + lanes - 1) / lanes;
  for (int64_t tile = 0; tile < conv.tiles; ++tile) {
    const int64_t first = tile * vectors / conv.tiles * lanes;
    const int64_t last = std::min(all, (tile + 1) * vectors / conv.tiles * lanes);
    for (int64_t p = first; p < last; p = (p / pixels + 1) * pixels) {
      const int64_t n = p / pixels;
      add_rows(channel_grad + n * channels, partial + (tile + n) * channels, 1, channels);
    }
  }
}

void input_and_channel_grad(const Call &call, Tensor &grad_input, Tensor *channel_sums) {
  const ConvShape &shape = call.shape;
  const int64_t kh = shape.kernel_height, kw = shape.kernel_width;
  const std::vector<Tap> forward_taps = taps_of(shape, call.weight);
  const Image partner = image_of(call.input);
  for (int64_t a = 0; a < std::min(shape.stride[0], shape.in_height); ++a)
    for (int64_t b = 0; b < std::min(shape.stride[1], shape.in_width); ++b) {
      // Input pixels (a + stride_h * r, b + stride_w * q), and the taps through which output pixels reach them.
      std::vector<Tap> tap_list;
      for (int64_t u = 0; u < kh; ++u)
        for (int64_t v = 0; v < kw; ++v) {
          const int64_t row = a + shape.padding[0] - u * shape.dilation[0];
          const int64_t column = b + shape.padding[1] - v * shape.dilation[1];
          if (row % shape.stride[0] == 0 && column % shape.stride[1] == 0)
            tap_list.push_back(
                {row / shape.stride[0], column / shape.stride[1], u * kw + v, forward_taps[u * kw + v].weight});
        }
      ConvParams conv{};
      conv.batch = shape.batch;
      conv.groups = shape.groups;
      conv.in_channels = shape.out_channels / shape.groups;
      conv.out_channels = shape.in_channels / shape.groups;
      conv.source = image_of(call.grad_output);
      conv.target = image_of(grad_input);
      conv.lattice_height = (shape.in_height - a + shape.stride[0] - 1) / shape.stride[0];
      conv.lattice_width = (shape.in_width - b + shape.stride[1] - 1) / shape.stride[1];
      for (int d = 0; d < 2; ++d) {
        conv.source_step[d] = 1;
        conv.target_step[d] = shape.stride[d];
      }
      conv.target_origin[0] = a;
      conv.target_origin[1] = b;
      conv.taps = tap_list.data();
      conv.tap_count = int64_t(tap_list.size());
      conv.weight = call.weight.data_ptr();
      conv.weight_row = call.weight.stride(1);
      conv.weight_channel = call.weight.stride(0);
      conv.weight_group = conv.in_channels * conv.weight_channel;
      conv.in_scale = call.filter.scale;
      conv.tap_scale = call.spatial.scale;
      conv.out_scale = call.channel.scale;
      conv.partner = channel_sums ? &partner : nullptr;
      plan_tiles(conv, call.dtype);
      Tensor partial;
      if (channel_sums) {
        const std::array<int64_t, 1> size{(conv.tiles + conv.batch) * shape.in_channels};
        partial = torch::stable::empty(size, compute_dtype(call.dtype));
        conv.partial = partial.data_ptr();
      }
      run_conv(conv, call.dtype);
      if (!channel_sums)
        continue;
      double *sums = channel_sums->mutable_data_ptr<double>();
      const int64_t lanes = lanes_of(call.dtype);
      if (partial.scalar_type() == ScalarType::Double)
        add_tile_sums(sums, partial.const_data_ptr<double>(), conv, lanes);
      else
        add_tile_sums(sums, partial.const_data_ptr<float>(), conv, lanes);
    }
}

bool is_depthwise(const ConvShape &shape) { return shape.groups > 1 && shape.in_channels == shape.groups; }

// Beside the gradient of the input, that of c reads x once more: its pixels for each channel. Beside that of the weight
// it reads nothing, but products are finished sample by sample: a group's filters times taps for each channel.
bool channel_grad_with_weight(const ConvShape &shape, bool wants_input) {
  const int64_t pixels = shape.in_height * shape.in_width;
  const int64_t products = shape.out_channels / shape.groups * shape.kernel_height * shape.kernel_width;
  return !is_depthwise(shape) && (!wants_input || kPixelsPerProduct * double(products) <= double(pixels));
}

struct WeightGrads {
  Tensor *weight, *channel_partial, *filter_partial, *tap_partial; // null where not wanted
};

void weight_and_modulation_grad(const Call &call, const WeightGrads &wanted) {
  const ConvShape &shape = call.shape;
  const std::vector<Tap> tap_list = taps_of(shape, call.weight);
  WeightGradParams grad{};
  grad.batch = shape.batch;
  grad.groups = shape.groups;
  grad.in_channels = shape.in_channels / shape.groups;
  grad.out_channels = shape.out_channels / shape.groups;
  grad.source = image_of(call.input);
  grad.grad = image_of(call.grad_output);
  grad.source_step[0] = shape.stride[0];
  grad.source_step[1] = shape.stride[1];
  grad.taps = tap_list.data();
  grad.tap_count = int64_t(tap_list.size());
  grad.weight = call.weight.data_ptr();
  grad.weight_grad = wanted.weight ? wanted.weight->data_ptr() : nullptr;
  grad.weight_out = call.weight.stride(0);
  grad.weight_channel = call.weight.stride(1);
  grad.in_scale = call.channel.scale;
  grad.tap_scale = call.spatial.scale;
  grad.out_scale = call.filter.scale;
  grad.per_sample = !call.static_filter || !call.static_spatial || (wanted.channel_partial && !call.static_channel);

  const bool depthwise = is_depthwise(shape);
  const bool nhwc =
      depthwise && grad.out_channels == 1 && has_adjacent_channels(grad.source) && has_adjacent_channels(grad.grad);
  // The cut does not depend on the number of threads.
  const int64_t lanes = lanes_of(call.dtype),
                width = std::min((grad.in_channels + lanes - 1) / lanes, int64_t(3)) * lanes;
  const int64_t elements = (shape.out_height * shape.out_width <= kBandPixels ? 2 : 1) * kProductElements;
  int64_t block = elements / (grad.tap_count * width) / kernels().rows * kernels().rows;
  block = std::clamp<int64_t>(block, kernels().rows, kMostBlockRows * kernels().rows);
  grad.out_blocks = (grad.out_channels + block - 1) / block;
  grad.in_split = std::clamp<int64_t>((grad.in_channels + 3 * lanes - 1) / (3 * lanes), 1, kMostInSplit);
  if (depthwise) {
    grad.out_blocks = std::min<int64_t>(nhwc ? (grad.groups + lanes - 1) / lanes : grad.groups, kDepthwiseUnits);
    grad.in_split = 1;
  }

  const int64_t units = depthwise ? grad.out_blocks : grad.groups * grad.out_blocks * grad.in_split;
  const int64_t batch = grad.per_sample ? grad.batch : 1;
  auto partial = [&](Tensor *sums, int64_t parts, int64_t count) -> double * {
    if (!sums)
      return nullptr;
    *sums = zeros(std::array<int64_t, 3>{parts, batch, count});
    return sums->mutable_data_ptr<double>();
  };
  grad.channel_partial = partial(wanted.channel_partial, grad.out_blocks, shape.in_channels);
  grad.filter_partial = partial(wanted.filter_partial, grad.in_split, shape.out_channels);
  grad.tap_partial = partial(wanted.tap_partial, units, grad.tap_count);
  const auto &by_stored = nhwc        ? kernels().depthwise_nhwc_weight_grad
                          : depthwise ? kernels().depthwise_nchw_weight_grad
                                      : kernels().gemm_weight_grad;
  const auto kernel = by_stored[int(stored_of(call.dtype))];
  torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) { kernel(grad, begin, end); });
}

Tensor bias_grad(const Call &call) {
  Tensor sums = torch::stable::empty(std::array<int64_t, 1>{call.shape.out_channels}, compute_dtype(call.dtype));
  const ChannelSums work{image_of(call.grad_output), call.shape.batch, call.shape.out_channels, sums.data_ptr()};
  const auto kernel = kernels().channel_sums[int(stored_of(call.dtype))];
  const int64_t lanes = lanes_of(call.dtype);
  torch::stable::parallel_for(0, (work.channels + lanes - 1) / lanes, 1,
                              [&](int64_t begin, int64_t end) { kernel(work, begin, end); });
  return sums.scalar_type() == call.dtype ? sums : torch::stable::to(sums, call.dtype);
}

// A dense weight may be written through the strides that it is read with; any other is made dense first.
Tensor dense_weight(const Tensor &weight) {
  const Tensor converted = as_compute(weight);
  return converted.is_contiguous() || is_channels_last(converted) ? converted : torch::stable::contiguous(converted);
}

Gradients run(const ConvShape &shape, const Tensor &grad_output, const Tensor &input, const Tensor &weight,
              const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
              const OptionalTensor &spatial_attention, const std::vector<bool> &output_mask) {
  const ScalarType dtype = input.scalar_type();
  const int64_t taps = shape.kernel_height * shape.kernel_width;
  auto is_static = [](const OptionalTensor &attention, int64_t dim) { return !attention || attention->dim() == dim; };
  const Call call{shape,
                  dtype,
                  addressable(grad_output),
                  addressable(input),
                  dense_weight(weight),
                  factors_of(channel_attention, shape.in_channels, 1, input),
                  factors_of(filter_attention, shape.out_channels, 1, input),
                  factors_of(spatial_attention, taps, 2, input),
                  is_static(channel_attention, 1),
                  is_static(filter_attention, 1),
                  is_static(spatial_attention, 2)};
  const bool wants_channel = output_mask[3], wants_filter = output_mask[4], wants_spatial = output_mask[5];

  Gradients gradients;
  if (output_mask[2])
    std::get<2>(gradients) = bias_grad(call);
  const bool second_pass = output_mask[1] || wants_filter || wants_spatial;
  const bool channel_with_weight = wants_channel && second_pass && channel_grad_with_weight(shape, output_mask[0]);
  Tensor channel_partial;
  if (output_mask[0] || (wants_channel && !channel_with_weight)) {
    Tensor grad_input =
        empty_image({shape.batch, shape.in_channels, shape.in_height, shape.in_width}, input, is_channels_last(input));
    const bool with_channel = wants_channel && !channel_with_weight;
    if (with_channel)
      channel_partial = zeros(std::array<int64_t, 3>{1, shape.batch, shape.in_channels});
    if (shape.batch > 0)
      input_and_channel_grad(call, grad_input, with_channel ? &channel_partial : nullptr);
    if (output_mask[0])
      std::get<0>(gradients) = grad_input;
  }
  if (second_pass) {
    Tensor grad_weight, filter_partial, tap_partial;
    if (output_mask[1])
      grad_weight = empty_image({call.weight.size(0), call.weight.size(1), call.weight.size(2), call.weight.size(3)},
                                call.weight, is_channels_last(call.weight));
    weight_and_modulation_grad(
        call, {output_mask[1] ? &grad_weight : nullptr, channel_with_weight ? &channel_partial : nullptr,
               wants_filter ? &filter_partial : nullptr, wants_spatial ? &tap_partial : nullptr});
    if (output_mask[1])
      std::get<1>(gradients) = grad_weight.scalar_type() == dtype ? grad_weight : torch::stable::to(grad_weight, dtype);
    if (wants_filter)
      std::get<4>(gradients) = sum_partial(filter_partial, call.static_filter, *filter_attention);
    if (wants_spatial)
      std::get<5>(gradients) = sum_partial(tap_partial, call.static_spatial, *spatial_attention);
  }
  if (wants_channel)
    std::get<3>(gradients) = sum_partial(channel_partial, call.static_channel, *channel_attention);
  const auto fill = [&](Tensor &gradient) {
    if (!gradient.defined())
      gradient = torch::stable::empty(std::array<int64_t, 1>{0}, dtype);
  };
  std::apply([&](auto &...each) { (fill(each), ...); }, gradients);
  return gradients;
}

Gradients native_conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                               const OptionalTensor &bias, const OptionalTensor &channel_attention,
                               const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                               const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups,
                               const std::vector<bool> &output_mask) {
  return run(check_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                 spatial_attention, stride, padding, dilation, groups, output_mask),
             grad_output, input, weight, channel_attention, filter_attention, spatial_attention, output_mask);
}

Gradients conv_backward(const Tensor &grad_output, const Tensor &input, const Tensor &weight,
                        const OptionalTensor &bias, const OptionalTensor &channel_attention,
                        const OptionalTensor &filter_attention, const OptionalTensor &spatial_attention,
                        const Ints &stride, const Ints &padding, const Ints &dilation, int64_t groups,
                        const std::vector<bool> &output_mask) {
  const ConvShape shape = check_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                              spatial_attention, stride, padding, dilation, groups, output_mask);
  if (selected_in_python(call_class(shape, input, spatial_attention)))
    return selected_conv_backward(grad_output, input, weight, bias, channel_attention, filter_attention,
                                  spatial_attention, stride, padding, dilation, groups, output_mask);
  return run(shape, grad_output, input, weight, channel_attention, filter_attention, spatial_attention, output_mask);
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::cpu::conv_backward));
  m.impl("_native_conv_backward", KERNELDNA_BOX(&kerneldna::cpu::native_conv_backward));
}
