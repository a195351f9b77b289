"""What was decided for the calls of one signature, so that the next call like them decides nothing.

A signature is all on which the choice of a backend and of its kernels depends, but what changes seldom: after a change
of that (a call tuned, a backend found not to run, another table of winners) all plans are forgotten. A tensor whose
address is no multiple of 16 has no plan, because some kernels take no such tensor, nor has one whose storage was freed,
so that the checks of the op refuse it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..triton_kernels.operands import input_precision

Plan = Callable[[Any], Any]  # of a Call or a BackwardCall


class CannotRun(RuntimeError):
    """A backend found out only in the call that it cannot run it; the next one then answers this and all like it."""


_MOST = 4096
_NO_OFFSET = 2**32  # what is freed stands at its offset from 0; its storage is asked only below this
_plans: dict[tuple[Any, ...], Plan] = {}


def signature(asked: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Of the arguments of conv or conv_backward, which differ in number, from somebody who asked for this."""
    key: list[Any] = [asked, args[0].device]
    addresses, lowest = 0, _NO_OFFSET
    for arg in args:
        if arg is None:
            key.append(None)
        elif isinstance(arg, Tensor):
            key += (arg.shape, arg.stride(), arg.dtype, arg.get_device())
            address = arg.data_ptr()
            addresses |= address
            if address < lowest:
                lowest = address
        else:
            key.append(tuple(arg) if isinstance(arg, (list, tuple)) else arg)
    if addresses % 16 or (lowest < _NO_OFFSET and any(map(_is_freed, args))):
        return None
    if args[0].dtype is torch.float32:
        key.append(input_precision())
    return tuple(key)


def _is_freed(arg: Any) -> bool:
    return isinstance(arg, Tensor) and arg.numel() > 0 and arg.untyped_storage().size() == 0


def find(key: tuple[Any, ...] | None) -> Plan | None:
    return _plans.get(key)  # type: ignore[arg-type]


def keep(key: tuple[Any, ...] | None, plan: Plan) -> None:
    if key is None:
        return
    if len(_plans) >= _MOST:
        _plans.clear()
    _plans[key] = plan


def forget() -> None:
    _plans.clear()
