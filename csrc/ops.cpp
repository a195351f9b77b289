// The schema of every op in the library. Kernels are registered by the file that defines them.
#include <torch/csrc/stable/library.h>

#include "schemas.h"
#include "selection.h"

STABLE_TORCH_LIBRARY(kerneldna, m) {
  m.def("conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("squeeze_excite" KERNELDNA_SQUEEZE_EXCITE_ARGUMENTS);

  // Private: the device's own kernels, whatever is selected, and the backend that Python selects (selection.h).
  m.def("_native_conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("_native_conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("_native_squeeze_excite" KERNELDNA_SQUEEZE_EXCITE_ARGUMENTS);
  m.def("_squeeze_excite_training" KERNELDNA_SQUEEZE_EXCITE_TRAINING_ARGUMENTS);                   // CPU
  m.def("_squeeze_excite_training_backward" KERNELDNA_SQUEEZE_EXCITE_TRAINING_BACKWARD_ARGUMENTS); // CPU
  m.def("_plain_conv" KERNELDNA_CONV_ARGUMENTS);                                                   // plain_conv.h
  m.def("_selected_conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("_selected_conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("_selected_squeeze_excite" KERNELDNA_SQUEEZE_EXCITE_ARGUMENTS);
  m.def("_select_in_python(int[] classes) -> ()");
  m.def("_conv_class(int[] input, int[] weight, int[] stride, int[] padding, int[] dilation, int groups, "
        "ScalarType dtype, bool spatial_per_sample, bool channels_last) -> int"); // selection.h
  m.def("_cuda_refusal(int device) -> str");                                      // in a CUDA build: cuda/refusal.h
  m.def("_cuda_conv_refusal(int[] input, int[] weight, int[] stride, int[] padding, int[] dilation, int groups, "
        "int element_bytes) -> str"); // cuda/conv_refusal.h
  m.def("_build_info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(kerneldna, CompositeExplicitAutograd, m) {
  m.impl("_select_in_python", TORCH_BOX(&kerneldna::select_in_python));
  m.impl("_build_info", TORCH_BOX(&kerneldna::build_info));
}
