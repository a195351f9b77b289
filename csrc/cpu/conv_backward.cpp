// kerneldna::conv_backward on the CPU: the gradient of the input from one pass, those of weight, f and s from another,
// and that of c from either.
#include "../box.h"
#include "../selection.h"
#include "plan.h"
#include "sample_kernels.h"
#include "tuning.h"

namespace kerneldna::cpu {
namespace {

// What the kernels read of a call, of all its samples or of one.
struct Operands {
  ConvShape shape;
  ScalarType dtype;
  Tensor grad_output, input, weight; // addressable; weight in the dtype of the arithmetic
  Factors channel, filter, spatial;
  // Of a mixture: the weight has a dimension of so many parents in front.
  int64_t parents = 0;
  Scale mix{};

  int leading() const { return parents ? 1 : 0; }
};

// out[j] += sum over rows of in[row][j], of any number of rows
template <class T> void add_rows(double *out, const T *in, int64_t rows, int64_t count) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t j = 0; j < count; ++j)
      out[j] += in[row * count + j];
}

// A gradient of an attention: partial [parts, batch, count] summed over the parts, and over the batch where static.
Tensor sum_partial(const Tensor &partial, Kind kind, const Tensor &like) {
  const bool over_batch = kind == Kind::is_static;
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
  for (int64_t tile = 0; tile < conv.tiles; ++tile) {
    const auto [first, last] = tile_range(conv, tile, lanes);
    for (int64_t p = first; p < last; p = (p / pixels + 1) * pixels) {
      const int64_t n = p / pixels;
      add_rows(channel_grad + n * channels, partial + (tile + n) * channels, 1, channels);
    }
  }
}

void input_and_channel_grad(const Operands &operands, Tensor &grad_input, Tensor *channel_sums);

// The same with images in channels_last.
void input_and_channel_grad_nhwc(const Operands &operands, Tensor &grad_input, Tensor *channel_sums) {
  using torch::headeronly::MemoryFormat;
  Operands last = operands;
  last.grad_output = torch::stable::contiguous(operands.grad_output, MemoryFormat::ChannelsLast);
  if (channel_sums)
    last.input = torch::stable::contiguous(operands.input, MemoryFormat::ChannelsLast);
  Tensor found = empty_image(operands.shape.input_sizes(), operands.input, true);
  input_and_channel_grad(last, found, channel_sums);
  torch::stable::copy_(grad_input, found);
}

void input_and_channel_grad(const Operands &operands, Tensor &grad_input, Tensor *channel_sums) {
  const ConvShape &shape = operands.shape;
  const int64_t kh = shape.kernel_height, kw = shape.kernel_width;
  const auto adjacent = [](const Tensor &image) { return image.stride(1) == 1 || image.size(1) == 1; };
  const bool nhwc =
      adjacent(operands.grad_output) && adjacent(grad_input) && (!channel_sums || adjacent(operands.input));
  if (operands.parents && !nhwc && (shape.stride[0] > 1 || shape.stride[1] > 1))
    return input_and_channel_grad_nhwc(operands, grad_input, channel_sums);
  const std::vector<Tap> forward_taps = taps_of(shape, operands.weight);
  const Image partner = image_of(operands.input);
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
      conv.source = image_of(operands.grad_output);
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
      conv.weight = operands.weight.data_ptr();
      conv.weight_row = operands.weight.stride(operands.leading() + 1);
      conv.weight_channel = operands.weight.stride(operands.leading());
      conv.mix = operands.mix;
      conv.kernels = operands.parents;
      conv.weight_kernel = operands.parents ? operands.weight.stride(0) : 0;
      conv.weight_group = conv.in_channels * conv.weight_channel;
      conv.in_scale = operands.filter.scale;
      conv.tap_scale = operands.spatial.scale;
      conv.out_scale = operands.channel.scale;
      conv.partner = channel_sums ? &partner : nullptr;
      if (!fits_layout(conv, operands.dtype)) // then the stride is 1, and this the only class
        return input_and_channel_grad_nhwc(operands, grad_input, channel_sums);
      plan_tiles(conv, operands.dtype);
      Tensor partial;
      if (channel_sums) {
        const std::array<int64_t, 1> size{(conv.tiles + conv.batch) * shape.in_channels};
        partial = torch::stable::empty(size, compute_dtype(operands.dtype));
        conv.partial = partial.data_ptr();
      }
      run_conv(conv, operands.dtype);
      if (!channel_sums)
        continue;
      double *sums = channel_sums->mutable_data_ptr<double>();
      const int64_t lanes = lanes_of(operands.dtype);
      if (partial.scalar_type() == ScalarType::Double)
        add_tile_sums(sums, partial.const_data_ptr<double>(), conv, lanes);
      else
        add_tile_sums(sums, partial.const_data_ptr<float>(), conv, lanes);
    }
}

// Beside the gradient of the input, that of c reads x once more: its pixels for each channel. Beside that of the weight
// it reads nothing, but products are finished sample by sample: a group's filters times taps for each channel.
bool channel_grad_with_weight(const ConvShape &shape, bool wants_input) {
  const int64_t pixels = shape.in_height * shape.in_width;
  const int64_t products = shape.out_channels / shape.groups * shape.taps();
  return !shape.depthwise() && (!wants_input || kPixelsPerProduct * double(products) <= double(pixels));
}

struct WeightGrads {
  Tensor *weight, *channel_partial, *filter_partial, *tap_partial, *kernel_partial; // null where not wanted
};

// `per_sample`: f or s is, or c where its gradient is wanted.
void weight_and_modulation_grad(const Operands &operands, const WeightGrads &wanted, bool per_sample) {
  const ConvShape &shape = operands.shape;
  const std::vector<Tap> tap_list = taps_of(shape, operands.weight);
  WeightGradParams grad{};
  grad.batch = shape.batch;
  grad.groups = shape.groups;
  grad.in_channels = shape.in_channels / shape.groups;
  grad.out_channels = shape.out_channels / shape.groups;
  grad.source = image_of(operands.input);
  grad.grad = image_of(operands.grad_output);
  grad.source_step[0] = shape.stride[0];
  grad.source_step[1] = shape.stride[1];
  grad.taps = tap_list.data();
  grad.tap_count = int64_t(tap_list.size());
  grad.weight = operands.weight.data_ptr();
  grad.weight_grad = wanted.weight ? wanted.weight->data_ptr() : nullptr;
  grad.weight_out = operands.weight.stride(operands.leading());
  grad.weight_channel = operands.weight.stride(operands.leading() + 1);
  grad.mix = operands.mix;
  grad.kernels = operands.parents;
  grad.weight_kernel = operands.parents ? operands.weight.stride(0) : 0;
  grad.in_scale = operands.channel.scale;
  grad.tap_scale = operands.spatial.scale;
  grad.out_scale = operands.filter.scale;
  grad.per_sample = per_sample;

  const bool depthwise = shape.depthwise();
  const bool nhwc =
      depthwise && grad.out_channels == 1 && has_adjacent_channels(grad.source) && has_adjacent_channels(grad.grad);
  // The cut does not depend on the number of threads.
  const int64_t lanes = lanes_of(operands.dtype),
                width = std::min((grad.in_channels + lanes - 1) / lanes, int64_t(3)) * lanes;
  int64_t elements = (shape.out_height * shape.out_width <= kBandPixels ? 2 : 1) * kProductElements;
  if (grad.kernels)
    elements = 3 * kProductElements / (2 * grad.kernels + 1); // beside weights and gradients of all parents
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
  grad.kernel_partial = partial(wanted.kernel_partial, units, grad.kernels);
  const auto &by_stored = nhwc        ? kernels().depthwise_nhwc_weight_grad
                          : depthwise ? kernels().depthwise_nchw_weight_grad
                                      : kernels().gemm_weight_grad;
  const auto kernel = by_stored[int(stored_of(operands.dtype))];
  torch::stable::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) { kernel(grad, begin, end); });
}

// The gradient of the bias: the sums over the pixels of all samples, or of each.
Tensor bias_grad(const ConvBackwardCall &call, const Tensor &grad_output) {
  const bool per_sample = call.bias_kind == Kind::per_sample;
  const int64_t rows = per_sample ? call.shape.batch : 1, samples = per_sample ? 1 : call.shape.batch;
  const int64_t channels = call.shape.out_channels, lanes = lanes_of(call.dtype());
  const int64_t blocks = (channels + lanes - 1) / lanes;
  Tensor sums = torch::stable::empty(call.bias->sizes(), compute_dtype(call.dtype()));
  const auto kernel = kernels().channel_sums[int(stored_of(call.dtype()))];
  torch::stable::parallel_for(0, rows * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t row = unit / blocks, block = unit % blocks;
      kernel({of_sample(image_of(grad_output), row, call.dtype()), samples, channels,
              static_cast<char *>(sums.data_ptr()) + row * channels * sums.element_size()},
             block, block + 1);
    }
  });
  return sums.scalar_type() == call.dtype() ? sums : torch::stable::to(sums, call.dtype());
}

// A dense weight may be written through the strides that it is read with; any other is made dense first.
Tensor dense_weight(const Tensor &weight) {
  const Tensor converted = as_compute(weight);
  return converted.is_contiguous() || is_channels_last(converted) ? converted : torch::stable::contiguous(converted);
}

// In float64, added up over whatever shares an attention only at the end.
struct AttentionGrads {
  Tensor channel, filter, spatial, kernel; // [parts, batch or 1, count]
};

// All gradients that are asked for but that of the bias; `operands` are those of the call, or of one sample, whose
// kernel then counts as the only one. The gradients of input and weight are filled, or undefined where they are not
// wanted.
AttentionGrads tensor_grads(const ConvBackwardCall &call, const Operands &operands, Tensor grad_input,
                            Tensor &grad_weight) {
  const ConvShape &shape = operands.shape;
  AttentionGrads sums;
  const bool fused_mixture = operands.parents > 0;
  const bool second_pass =
      grad_weight.defined() || call.wants_filter() || call.wants_spatial() || (fused_mixture && call.wants_kernel());
  const bool channel_with_weight =
      call.wants_channel() && second_pass && channel_grad_with_weight(shape, call.wants_input());
  if (call.wants_input() || (call.wants_channel() && !channel_with_weight)) {
    const bool with_channel = call.wants_channel() && !channel_with_weight;
    if (!grad_input.defined())
      grad_input = empty_image(shape.input_sizes(), call.input, call.channels_last);
    if (with_channel)
      sums.channel = zeros(std::array<int64_t, 3>{1, shape.batch, shape.in_channels});
    if (shape.batch > 0)
      input_and_channel_grad(operands, grad_input, with_channel ? &sums.channel : nullptr);
  }
  if (second_pass) {
    const bool per_sample = fused_mixture || call.filter == Kind::per_sample || call.spatial == Kind::per_sample ||
                            (channel_with_weight && call.channel == Kind::per_sample);
    weight_and_modulation_grad(
        operands,
        {grad_weight.defined() ? &grad_weight : nullptr, channel_with_weight ? &sums.channel : nullptr,
         call.wants_filter() ? &sums.filter : nullptr, call.wants_spatial() ? &sums.spatial : nullptr,
         fused_mixture && call.wants_kernel() ? &sums.kernel : nullptr},
        per_sample);
  }
  return sums;
}

// Sample by sample, each with its own kernel.
AttentionGrads grads_of_each(const ConvBackwardCall &call, const SampleKernels &kernels, const Operands &all,
                             Tensor &grad_input, Tensor &grad_weight) {
  const ConvShape &shape = call.shape;
  Tensor buffer, kernel_grad;
  AttentionGrads sums;
  const auto empty = [&](bool wanted, int64_t count) {
    return wanted ? zeros(std::array<int64_t, 3>{1, shape.batch, count}) : Tensor();
  };
  sums.channel = empty(call.wants_channel(), shape.in_channels);
  sums.filter = empty(call.wants_filter(), shape.out_channels);
  sums.spatial = empty(call.wants_spatial(), shape.taps());
  sums.kernel = empty(call.wants_kernel(), kernels.mixed() ? call.weight.size(0) : 0);
  for (int64_t n = 0; n < shape.batch; ++n) {
    Operands one = all;
    one.shape.batch = 1;
    one.grad_output = torch::stable::narrow(one.grad_output, 0, n, 1);
    one.input = torch::stable::narrow(one.input, 0, n, 1);
    one.weight = as_contiguous(kernels.of(n, buffer));
    for (Factors *factors : {&one.channel, &one.filter, &one.spatial})
      factors->scale = of_sample(factors->scale, n, all.dtype);
    const bool in_place =
        grad_weight.defined() && !kernels.mixed() && grad_weight.scalar_type() == one.weight.scalar_type();
    if (in_place)
      kernel_grad = torch::stable::select(grad_weight, 0, n);
    else if ((grad_weight.defined() || call.wants_kernel()) && !kernel_grad.defined())
      kernel_grad = torch::stable::empty(one.weight.sizes(), one.weight.scalar_type());
    Tensor grad_image = grad_input.defined() ? torch::stable::narrow(grad_input, 0, n, 1) : Tensor();
    const AttentionGrads of_one = tensor_grads(call, one, grad_image, kernel_grad);
    const auto add = [&](Tensor &sum, const Tensor &parts) {
      if (sum.defined())
        add_rows(sum.mutable_data_ptr<double>() + n * sum.size(2), parts.const_data_ptr<double>(), parts.size(0),
                 sum.size(2));
    };
    add(sums.channel, of_one.channel);
    add(sums.filter, of_one.filter);
    add(sums.spatial, of_one.spatial);
    if (kernels.mixed() && kernel_grad.defined())
      kernels.add_gradients(n, kernel_grad, grad_weight, sums.kernel);
    else if (kernel_grad.defined() && !in_place) {
      Tensor slot = torch::stable::select(grad_weight, 0, n);
      torch::stable::copy_(slot, kernel_grad);
    }
  }
  return sums;
}

Gradients native_conv_backward(const ConvBackwardCall &call) {
  const ConvShape &shape = call.shape;
  const ScalarType dtype = call.dtype();
  const bool shared = call.kernels == Kernels::shared;
  Operands operands{shape,
                    dtype,
                    addressable(call.grad_output),
                    addressable(call.input),
                    shared ? dense_weight(call.weight) : Tensor(),
                    factors_of(call.channel_attention, call.channel, shape.in_channels, call.input),
                    factors_of(call.filter_attention, call.filter, shape.out_channels, call.input),
                    factors_of(call.spatial_attention, call.spatial, shape.taps(), call.input)};
  Gradients gradients;
  auto &[grad_input, grad_weight, grad_bias, grad_channel, grad_filter, grad_spatial, grad_kernel] = gradients;
  if (call.wants_bias())
    grad_bias = bias_grad(call, operands.grad_output);
  if (call.wants_input())
    grad_input = empty_image(shape.input_sizes(), call.input, call.channels_last);
  AttentionGrads sums;
  if (shared) {
    const Tensor &weight = operands.weight;
    if (call.wants_weight())
      grad_weight = empty_image({weight.size(0), weight.size(1), weight.size(2), weight.size(3)}, weight,
                                is_channels_last(weight));
    sums = tensor_grads(call, operands, grad_input, grad_weight);
  } else if (const SampleKernels kernels(call); kernels.mixed() && !kernels.single() && !kernels.one_by_one()) {
    const SampleKernels::Weight parents = kernels.all();
    operands.weight = parents.tensor;
    operands.parents = parents.parents;
    operands.mix = parents.mix;
    if (call.wants_weight())
      grad_weight = torch::stable::empty(call.weight.sizes(), compute_dtype(dtype));
    sums = tensor_grads(call, operands, grad_input, grad_weight);
  } else {
    if (call.wants_weight() && kernels.mixed())
      grad_weight = torch::stable::full(call.weight.sizes(), 0.0, compute_dtype(dtype));
    else if (call.wants_weight())
      grad_weight = torch::stable::empty(call.weight.sizes(), dtype);
    sums = grads_of_each(call, kernels, operands, grad_input, grad_weight);
  }
  if (call.wants_weight() && grad_weight.scalar_type() != dtype)
    grad_weight = torch::stable::to(grad_weight, dtype);
  if (call.wants_channel())
    grad_channel = sum_partial(sums.channel, call.channel, *call.channel_attention);
  if (call.wants_filter())
    grad_filter = sum_partial(sums.filter, call.filter, *call.filter_attention);
  if (call.wants_spatial())
    grad_spatial = sum_partial(sums.spatial, call.spatial, *call.spatial_attention);
  if (call.wants_kernel())
    grad_kernel = sum_partial(sums.kernel, Kind::per_sample, *call.kernel_attention);
  const auto fill = [&](Tensor &gradient) {
    if (!gradient.defined())
      gradient = torch::stable::empty(std::array<int64_t, 1>{0}, dtype);
  };
  std::apply([&](auto &...each) { (fill(each), ...); }, gradients);
  return gradients;
}

Gradients conv_backward(const ConvBackwardCall &call) {
  return selected_in_python(call_class(call)) ? selected_conv_backward(call) : native_conv_backward(call);
}

} // namespace
} // namespace kerneldna::cpu

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CPU, m) {
  m.impl("conv_backward", KERNELDNA_BOX(&kerneldna::conv_backward_op<kerneldna::cpu::conv_backward>));
  m.impl("_native_conv_backward", KERNELDNA_BOX(&kerneldna::conv_backward_op<kerneldna::cpu::native_conv_backward>));
}
