"""What makes torch.ops.kerneldna.* compose: fake kernels, autograd, autocast, vmap, export, counted FLOPs. Importing
this registers all of it on the ops that the C++ library defines (csrc/ops.cpp)."""

from . import export, flops, registrations, squeeze_excite  # noqa: F401
