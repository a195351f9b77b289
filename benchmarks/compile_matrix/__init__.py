"""Compiles the Triton kernels ahead of time for every architecture and reads off the machine code what they cost."""
