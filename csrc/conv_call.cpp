#include "conv_call.h"

#include <algorithm>

namespace kerneldna {
namespace {

// A padded map is counted in 64 bits, and by its pixels.
constexpr int64_t kLargestPadding = int64_t(1) << 24;

std::array<int64_t, 2> check_pair(const char *op, const char *name, const Ints &values, int64_t minimum) {
  check(values.size() == 2, op, ": ", name, " must have 2 values (height, width), got ", values.size());
  check(values[0] >= minimum && values[1] >= minimum, op, ": ", name, " must be at least ", minimum, ", got ",
        Bracketed{values.data(), 2});
  return {values[0], values[1]};
}

// Per sample: `per_sample`; static: the same without the leading batch size.
Kind check_attention(const char *op, const char *name, const OptionalTensor &attention, const Tensor &input,
                     std::initializer_list<int64_t> per_sample, std::initializer_list<int64_t> fixed) {
  if (!attention)
    return Kind::absent;
  check_like_input(op, name, *attention, input);
  if (has_shape(*attention, per_sample))
    return Kind::per_sample;
  check(has_shape(*attention, fixed), op, ": ", name, " must have shape ", bracketed(per_sample), " (per sample) or ",
        bracketed(fixed), " (static), got ", shape_of(*attention));
  return Kind::is_static;
}

// Along an axis; 0 where the kernel does not fit into the input.
int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  using Wide = __int128; // a huge dilation must not wrap into a plausible size
  const Wide span = Wide(in) + 2 * Wide(padding) - Wide(dilation) * (kernel - 1) - 1;
  return span < 0 ? 0 : int64_t(span / stride) + 1;
}

void set_operands(ConvShape &s, const int64_t *input, const int64_t *weight, int64_t groups) {
  s.batch = input[0];
  s.in_channels = input[1];
  s.in_height = input[2];
  s.in_width = input[3];
  s.out_channels = weight[0];
  s.kernel_height = weight[2];
  s.kernel_width = weight[3];
  s.groups = groups;
}

void set_output(ConvShape &s) {
  s.out_height = out_size(s.in_height, s.kernel_height, s.stride[0], s.padding[0], s.dilation[0]);
  s.out_width = out_size(s.in_width, s.kernel_width, s.stride[1], s.padding[1], s.dilation[1]);
}

} // namespace

ConvShape ConvShape::of(const Ints &input, const Ints &weight, const Ints &stride, const Ints &padding,
                        const Ints &dilation, int64_t groups) {
  check(input.size() == 4 && weight.size() == 4, "kerneldna: expected sizes of 4-D tensors, got ", input.size(),
        "-D and ", weight.size(), "-D");
  ConvShape shape{};
  set_operands(shape, input.data(), weight.data(), groups);
  for (int axis = 0; axis < 2; ++axis) {
    shape.stride[axis] = stride.at(axis);
    shape.padding[axis] = padding.at(axis);
    shape.dilation[axis] = dilation.at(axis);
  }
  set_output(shape);
  return shape;
}

ConvCall::ConvCall(const char *op, const Tensor &input, const Tensor &weight, const OptionalTensor &bias,
                   const OptionalTensor &channel_attention, const OptionalTensor &filter_attention,
                   const OptionalTensor &spatial_attention, const Ints &stride, const Ints &padding,
                   const Ints &dilation, int64_t groups, const OptionalTensor &kernel_attention)
    : op(op), input(input), weight(weight), bias(bias), channel_attention(channel_attention),
      filter_attention(filter_attention), spatial_attention(spatial_attention), kernel_attention(kernel_attention),
      stride(stride), padding(padding), dilation(dilation), shape{} {
  check(input.dim() == 4, op, ": input must be 4-D [N, C_in, H, W], got ", input.dim(), "-D ", shape_of(input));
  check_input(op, "input", input);
  kernels = kernel_attention ? Kernels::mixed : weight.dim() == 5 ? Kernels::per_sample : Kernels::shared;
  if (kernels == Kernels::mixed)
    check(weight.dim() == 5, op, ": weight must be 5-D [K, C_out, C_in/groups, kh, kw] with kernel_attention, got ",
          weight.dim(), "-D ", shape_of(weight));
  else
    check(weight.dim() == 4 || weight.dim() == 5, op,
          ": weight must be 4-D [C_out, C_in/groups, kh, kw] or 5-D with a kernel for each sample in front, got ",
          weight.dim(), "-D ", shape_of(weight));
  check_like_input(op, "weight", weight, input);

  const int leading = int(weight.dim()) - 4;
  set_operands(shape, input.sizes().data(), weight.sizes().data() + leading, groups);
  shape.stride = check_pair(op, "stride", stride, 1);
  shape.padding = check_pair(op, "padding", padding, 0);
  check(std::max(padding[0], padding[1]) <= kLargestPadding, op, ": padding must be at most ", kLargestPadding,
        ", got ", Bracketed{padding.data(), 2});
  shape.dilation = check_pair(op, "dilation", dilation, 1);

  check(groups >= 1, op, ": groups must be at least 1, got ", groups);
  check(shape.in_channels > 0 && shape.in_height > 0 && shape.in_width > 0 && shape.out_channels > 0 &&
            shape.kernel_height > 0 && shape.kernel_width > 0,
        op, ": only the batch of input may be empty, got input ", shape_of(input), " and weight ", shape_of(weight));
  check(shape.in_channels % groups == 0 && shape.out_channels % groups == 0, op,
        ": groups must divide C_in = ", shape.in_channels, " and C_out = ", shape.out_channels, ", got ", groups);
  check(weight.size(leading + 1) == shape.in_channels / groups, op,
        ": weight must have C_in/groups = ", shape.in_channels / groups, " input channels, got ",
        weight.size(leading + 1), " in ", shape_of(weight));

  const int64_t n = shape.batch, c = shape.in_channels, o = shape.out_channels;
  const int64_t kh = shape.kernel_height, kw = shape.kernel_width;
  if (bias) {
    check_like_input(op, "bias", *bias, input);
    check(has_shape(*bias, {o}) || has_shape(*bias, {n, o}), op, ": bias must have shape ", bracketed({o}), " or ",
          bracketed({n, o}), " (per sample), got ", shape_of(*bias));
  }
  bias_kind = !bias ? Kind::absent : bias->dim() == 1 ? Kind::is_static : Kind::per_sample;
  channel = check_attention(op, "channel_attention", channel_attention, input, {n, c}, {c});
  filter = check_attention(op, "filter_attention", filter_attention, input, {n, o}, {o});
  spatial = check_attention(op, "spatial_attention", spatial_attention, input, {n, kh, kw}, {kh, kw});
  if (kernels == Kernels::per_sample)
    check(weight.size(0) == n, op, ": weight must have a kernel for each of the N = ", n, " samples, got ",
          weight.size(0), " in ", shape_of(weight));
  if (kernels == Kernels::mixed) {
    const int64_t k = weight.size(0);
    check(k > 0, op, ": weight must have one kernel at least, got ", shape_of(weight));
    check_like_input(op, "kernel_attention", *kernel_attention, input);
    check(has_shape(*kernel_attention, {n, k}), op, ": kernel_attention must have shape ", bracketed({n, k}),
          " (samples, kernels), got ", shape_of(*kernel_attention));
  }

  set_output(shape);
  check(shape.out_height > 0 && shape.out_width > 0, op, ": the output would be empty: a kernel of ",
        bracketed({kh, kw}), " with dilation ", Bracketed{shape.dilation.data(), 2}, " does not fit into an input of ",
        bracketed({shape.in_height, shape.in_width}), " with padding ", Bracketed{shape.padding.data(), 2});
  // Any stride that leaves the padded input is as good as the next, but not all can be multiplied.
  shape.stride[0] = std::min(stride[0], shape.in_height + 2 * padding[0]);
  shape.stride[1] = std::min(stride[1], shape.in_width + 2 * padding[1]);
  channels_last = is_channels_last(input);
}

ConvBackwardCall::ConvBackwardCall(const Tensor &grad_output, const ConvCall &call,
                                   const std::vector<bool> &output_mask)
    : ConvCall(call), grad_output(grad_output), output_mask{} {
  check_like_input(op, "grad_output", grad_output, input);
  const auto [n, o, height, width] = shape.output_sizes();
  check(has_shape(grad_output, {n, o, height, width}), op, ": grad_output must have shape ",
        bracketed({n, o, height, width}), ", got ", shape_of(grad_output));

  check(output_mask.size() == kGradients || output_mask.size() == kGradients - 1, op, ": output_mask must have ",
        kGradients, " values, got ", output_mask.size());
  std::copy(output_mask.begin(), output_mask.end(), this->output_mask.begin());
  const std::pair<const char *, const OptionalTensor *> optional[] = {{"bias", &bias},
                                                                      {"channel_attention", &channel_attention},
                                                                      {"filter_attention", &filter_attention},
                                                                      {"spatial_attention", &spatial_attention},
                                                                      {"kernel_attention", &kernel_attention}};
  for (size_t i = 0; i < std::size(optional); ++i)
    check(*optional[i].second || !this->output_mask[2 + i], op, ": output_mask asks for the gradient of ",
          optional[i].first, ", which is None");
}

} // namespace kerneldna
