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
                   const Ints &dilation, int64_t groups)
    : op(op), input(input), weight(weight), bias(bias), channel_attention(channel_attention),
      filter_attention(filter_attention), spatial_attention(spatial_attention), stride(stride), padding(padding),
      dilation(dilation), shape{} {
  check(input.dim() == 4, op, ": input must be 4-D [N, C_in, H, W], got ", input.dim(), "-D ", shape_of(input));
  check_input(op, "input", input);
  check(weight.dim() == 4, op, ": weight must be 4-D [C_out, C_in/groups, kh, kw], got ", weight.dim(), "-D ",
        shape_of(weight));
  check_like_input(op, "weight", weight, input);

  set_operands(shape, input.sizes().data(), weight.sizes().data(), groups);
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
  check(weight.size(1) == shape.in_channels / groups, op,
        ": weight must have C_in/groups = ", shape.in_channels / groups, " input channels, got ", weight.size(1),
        " in ", shape_of(weight));

  const int64_t n = shape.batch, c = shape.in_channels, o = shape.out_channels;
  const int64_t kh = shape.kernel_height, kw = shape.kernel_width;
  if (bias) {
    check_like_input(op, "bias", *bias, input);
    check(has_shape(*bias, {o}), op, ": bias must have shape ", bracketed({o}), ", got ", shape_of(*bias));
  }
  channel = check_attention(op, "channel_attention", channel_attention, input, {n, c}, {c});
  filter = check_attention(op, "filter_attention", filter_attention, input, {n, o}, {o});
  spatial = check_attention(op, "spatial_attention", spatial_attention, input, {n, kh, kw}, {kh, kw});

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
    : ConvCall(call), grad_output(grad_output), output_mask(output_mask) {
  check_like_input(op, "grad_output", grad_output, input);
  const auto [n, o, height, width] = shape.output_sizes();
  check(has_shape(grad_output, {n, o, height, width}), op, ": grad_output must have shape ",
        bracketed({n, o, height, width}), ", got ", shape_of(grad_output));

  check(output_mask.size() == 6, op, ": output_mask must have 6 values, got ", output_mask.size());
  const std::pair<const char *, const OptionalTensor *> optional[] = {{"bias", &bias},
                                                                      {"channel_attention", &channel_attention},
                                                                      {"filter_attention", &filter_attention},
                                                                      {"spatial_attention", &spatial_attention}};
  for (int i = 0; i < 4; ++i)
    check(*optional[i].second || !output_mask[2 + i], op, ": output_mask asks for the gradient of ", optional[i].first,
          ", which is None");
}

} // namespace kerneldna
