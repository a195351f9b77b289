"""squeeze_excite beside its native kernels: fake, autocast, no backward; Triton or plain PyTorch on other devices."""

import os
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _autocast, backends
from ._checks import check_squeeze_excite
from ._library import LIBRARY, register_kernel


def fake(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    _check(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return input.new_empty(input.shape[:2])


def on_any_device(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    _check(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    if runs_on_triton(input):
        kernels = backends.load("triton").kernels("squeeze_excite")
        gate: Tensor = kernels.squeeze_excite(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
        return gate
    hidden = F.linear(input.mean((2, 3)), fc1_weight.flatten(1), fc1_bias).relu_()
    return F.linear(hidden, fc2_weight.flatten(1), fc2_bias).sigmoid_()


def runs_on_triton(input: Tensor) -> bool:
    """Whether the Triton kernels answer.

    They do on every GPU that they run on, unless another backend is chosen; on the CPU, where they are interpreted,
    only if the backend "triton" is chosen.
    """
    chosen = backends.chosen_backend()
    if chosen != "triton" and not (chosen is None and input.is_cuda):
        return False
    runs: bool = backends.load("triton").runs_on(input)[0]
    return runs


def refuse_backward(ctx: Any, grad: Tensor) -> None:
    raise RuntimeError(
        "kerneldna::squeeze_excite has no backward: it is for inference, and kerneldna_ops.nn.SqueezeExcite in training"
        " mode is what can be differentiated"
    )


def _check(*args: Any) -> None:
    try:
        check_squeeze_excite("kerneldna::squeeze_excite", *args)
    except (TypeError, ValueError) as error:
        raise RuntimeError(*error.args) from None


def ask_before_the_native_kernel() -> None:
    """Gives the CPU's native kernel, which asks nobody, a choice, for processes in which Triton is the interpreter."""
    native = torch.library.get_kernel("kerneldna::squeeze_excite", "CPU")

    def on_cpu(keys: torch._C.DispatchKeySet, input: Tensor, *args: Any) -> Tensor:
        if runs_on_triton(input):
            return on_any_device(input, *args)
        gate: Tensor = native.call_boxed(keys, input, *args)
        return gate

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*Overriding a previously registered kernel")
        LIBRARY.impl("squeeze_excite", on_cpu, "CPU", with_keyset=True, allow_override=True)


register_kernel("squeeze_excite", "CompositeExplicitAutograd", on_any_device)
if os.environ.get("TRITON_INTERPRET") == "1":
    ask_before_the_native_kernel()
torch.library.register_fake("kerneldna::squeeze_excite", fake, lib=LIBRARY)
torch.library.register_autograd("kerneldna::squeeze_excite", refuse_backward, lib=LIBRARY)
for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    register_kernel("squeeze_excite", _key, _autocast.kernel(torch.ops.kerneldna.squeeze_excite.default, _device_type))
