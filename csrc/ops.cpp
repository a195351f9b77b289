// The schema of every op in the library. Kernels are registered by the file that defines them.
#include <torch/csrc/stable/library.h>

#include "selection.h"

#define KERNELDNA_CONV_ARGUMENTS                                                                                       \
  "(Tensor input, Tensor weight, Tensor? bias=None, "                                                                  \
  "Tensor? channel_attention=None, Tensor? filter_attention=None, "                                                    \
  "Tensor? spatial_attention=None, SymInt[2] stride=1, SymInt[2] padding=0, "                                          \
  "SymInt[2] dilation=1, SymInt groups=1) -> Tensor"

#define KERNELDNA_CONV_BACKWARD_ARGUMENTS                                                                              \
  "(Tensor grad_output, Tensor input, Tensor weight, Tensor? bias, "                                                   \
  "Tensor? channel_attention, Tensor? filter_attention, "                                                              \
  "Tensor? spatial_attention, SymInt[2] stride, SymInt[2] padding, "                                                   \
  "SymInt[2] dilation, SymInt groups, bool[6] output_mask) "                                                           \
  "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"

STABLE_TORCH_LIBRARY(kerneldna, m) {
  m.def("conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("squeeze_excite(Tensor input, Tensor fc1_weight, Tensor? fc1_bias, "
        "Tensor fc2_weight, Tensor? fc2_bias) -> Tensor");

  // Private: the device's own kernels, whatever is selected, and the backend that Python selects (selection.h).
  m.def("_native_conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("_native_conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("_selected_conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("_selected_conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("_select_in_python(int[] classes) -> ()");
  m.def("_build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_select_in_python", TORCH_BOX(&kerneldna::select_in_python));
  m.impl("_build_info", TORCH_BOX(&kerneldna::build_info));
}
