"""What makes squeeze_excite compose: fake, autocast, no backward, the way into backends in Python."""

from typing import Any

import torch
from torch import Tensor

from . import _autocast, backends
from ._checks import check_squeeze_excite
from ._library import LIBRARY, register_kernel


def fake(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    _check(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return input.new_empty(input.shape[:2])


def on_any_device(*args: Any) -> Tensor:
    """Where the C++ library has no kernel for a device, nobody has checked the arguments yet."""
    _check(*args)
    return backends.squeeze_excite(*args)


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


register_kernel("squeeze_excite", "CompositeExplicitAutograd", on_any_device)
register_kernel("_selected_squeeze_excite", "CompositeExplicitAutograd", backends.squeeze_excite)
torch.library.register_fake("kerneldna::squeeze_excite", fake, lib=LIBRARY)
torch.library.register_autograd("kerneldna::squeeze_excite", refuse_backward, lib=LIBRARY)
for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    register_kernel("squeeze_excite", _key, _autocast.kernel(torch.ops.kerneldna.squeeze_excite.default, _device_type))
