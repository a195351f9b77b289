// The ops that run the CUDA kernels on CPU tensors, for tests; the host files register their kernels.
#include "host.h"

#include "schemas.h"

STABLE_TORCH_LIBRARY(kerneldna_cuda_host, m) {
  m.def("conv" KERNELDNA_CONV_ARGUMENTS);
  m.def("conv_backward" KERNELDNA_CONV_BACKWARD_ARGUMENTS);
  m.def("squeeze_excite" KERNELDNA_SQUEEZE_EXCITE_ARGUMENTS);
}
