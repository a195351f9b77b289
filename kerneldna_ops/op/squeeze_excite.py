"""What makes squeeze_excite compose: fake, autograd, autocast, vmap, the way into backends in Python."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import backends
from ..checks import check_squeeze_excite
from ..library import LIBRARY, NESTED, register_kernel
from . import autocast, vmap
from .autograd import Recorded, records
from .registrations import checked

_squeeze_excite = torch.ops.kerneldna.squeeze_excite.default


def fake(
    input: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    _check(input, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return input.new_empty(input.shape[:2])


def on_any_device(*args: Any) -> Tensor:
    """Where the C++ library has no kernel for a device, nobody has checked the arguments yet."""
    _check(*args)
    return backends.squeeze_excite(*args)


class _NotDifferentiable(Recorded):
    @staticmethod
    def forward(ctx: Any, below: Callable[[], Tensor], *args: Any) -> Tensor:
        return below()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        _refuse("backward")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        _refuse("forward-mode derivative")


def _refuse(derivative: str) -> NoReturn:
    raise RuntimeError(
        f"kerneldna::squeeze_excite has no {derivative}: it is for inference, and kerneldna_ops.nn.SqueezeExcite in"
        " training mode is what can be differentiated"
    )


def autograd(keyset: torch._C.DispatchKeySet, *args: Any) -> Tensor:
    def below() -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            return _squeeze_excite.redispatch(keyset & torch._C._after_autograd_keyset, *args)  # type: ignore[no-any-return]

    return _NotDifferentiable.apply(below, *args) if records(args) else below()


def _check(*args: Any) -> None:
    checked(check_squeeze_excite, "kerneldna::squeeze_excite", *args)


for _key in ("CompositeExplicitAutograd", *NESTED):
    register_kernel("squeeze_excite", _key, on_any_device)
register_kernel("_selected_squeeze_excite", "CompositeExplicitAutograd", backends.squeeze_excite)
torch.library.register_fake("kerneldna::squeeze_excite", fake, lib=LIBRARY)
register_kernel("squeeze_excite", "Autograd", autograd, with_keyset=True)
torch.library.register_vmap("kerneldna::squeeze_excite", vmap.squeeze_excite, lib=LIBRARY)
for _device_type, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    register_kernel("squeeze_excite", _key, autocast.kernel(_squeeze_excite, _device_type))
