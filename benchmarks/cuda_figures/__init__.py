"""Reads off the machine code in the op library what its CUDA kernels cost on each architecture."""
