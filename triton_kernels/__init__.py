"""The Triton kernels behind the backend `triton`; nothing here is imported before a call needs it."""
