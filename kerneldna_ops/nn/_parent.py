"""What a child borrows: the parent's weight as it is now, whichever tool has changed the parent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from .child_conv import ChildConv2d


def weight_made_by_hooks(parent: nn.Conv2d) -> Tensor:
    """The weight of a parent with hooks that run before it.

    By such hooks torch.nn.utils.weight_norm, spectral_norm and prune leave a weight there when the parent runs. A child
    may run before, so it is computed anew; in training spectral_norm takes a step of its power iteration for that, too.

    Raises:
        RuntimeError: another tool makes the weight.
    """
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    hooks = parent._forward_pre_hooks.values()
    for hook in hooks:
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == "weight":
            return hook.apply_mask(parent)  # type: ignore[no-any-return]
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            return hook.compute_weight(parent)  # type: ignore[no-any-return]
        if isinstance(hook, SpectralNorm) and hook.name == "weight":
            return hook.compute_weight(parent, do_power_iteration=parent.training)
    if "weight" in parent.__dict__ and not getattr(parent, "_is_replica", False):
        names = ", ".join(type(hook).__qualname__ for hook in hooks)
        raise RuntimeError(
            f"ChildConv2d: the parent's weight is no parameter but made by a hook ({names}) when the parent runs, which"
            " a child may do before: use torch.nn.utils.parametrize"
        )
    return parent.weight


class PartsWithParent(dict[str, Any]):
    """The parts of a child while nn.DataParallel copies its network.

    torch.nn.parallel.replicate copies module by module, and then gives to each copy the copies of what `_modules` of
    the original has. That once, the parent is in there, so that a copy of the child borrows from a copy of the parent.
    """

    def __init__(self, child: ChildConv2d) -> None:
        super().__init__(child._modules)
        self._child = child

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        yield from super().items()
        self._child.__dict__["_modules"] = dict(self)
        yield "parent", _PartOfTheNetwork(self._child.parent)


class _PartOfTheNetwork:
    """Stands for a module where replicate looks up its copies, and says what is wrong where there are none."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __eq__(self, other: object) -> bool:
        return other is self._module

    def __hash__(self) -> int:
        return hash(self._module)

    def __repr__(self) -> str:
        return "nn.DataParallel: a child must be wrapped together with its parent"
