"""What goes wrong while Triton builds, loads or launches a kernel, told from errors that nobody may hide."""

import subprocess

import torch

_DRIVER = "Triton Error [CUDA]: "
# What the driver says where a kernel cannot be loaded or started on this device. Triton raises RuntimeErrors with these
# texts, and with those of all other errors of the driver: of kernels that ran before, and of a lack of memory.
_NOT_LOADABLE = {
    "device kernel image is invalid",
    "no kernel image is available for execution on the device",
    "a PTX JIT compilation failed",
    "PTX JIT compiler library not found",
    "the provided PTX was compiled with an unsupported toolchain.",
    "named symbol not found",
    "too many resources requested for launch",
    "invalid argument",
    "operation not supported",
}


class KernelFailure(RuntimeError):
    """A kernel that Triton could not run, though the device is well; the message is the reason."""

    def __init__(self, reason: str, out_of_resources: bool) -> None:
        super().__init__(reason)
        self.out_of_resources = out_of_resources


def failure(error: Exception) -> KernelFailure | None:
    """The failure that an error from inside Triton is; None if it must reach the user: a lack of memory, a device that
    has failed, or an argument of the wrong type, which is a mistake of the caller."""
    from triton.runtime.errors import OutOfResources

    if not is_reason(error):
        return None
    return KernelFailure(f"Triton could not build its kernel ({described(error)})", isinstance(error, OutOfResources))


def described(error: Exception) -> str:
    """An error in one line."""
    from triton.errors import TritonError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    # Triton's own quote the source first.
    return f"{type(error).__name__}: {lines[-1 if isinstance(error, TritonError) else 0]}"


def is_reason(error: Exception) -> bool:
    """Whether an error from inside Triton says that a kernel cannot run here, and nothing worse."""
    from triton.errors import TritonError

    if isinstance(error, (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", ()))):
        return False
    message = str(error)
    if message.startswith("CUDA "):  # torch's own, in the versions that have no type for it
        return False
    if message.startswith(_DRIVER):
        return message.removeprefix(_DRIVER).strip() in _NOT_LOADABLE
    return isinstance(
        error, (TritonError, RuntimeError, OSError, ImportError, AssertionError, subprocess.SubprocessError)
    )
