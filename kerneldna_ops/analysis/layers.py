"""Which layers of a model are looked at, and looking at their outputs without leaving a trace in the model."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .._eval_mode import eval_mode
from ..nn import ChildConv2d
from .gram import FEWEST_SAMPLES, centre, gram

Layers: TypeAlias = Iterable[str] | Callable[[str, nn.Module], bool] | None


def is_convolution(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | ChildConv2d)


def select(model: nn.Module, layers: Layers) -> dict[str, nn.Module]:
    """The modules of `model` by name: convolutions (None), those with these names, or where layers(name, module)."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"cka: model must be an nn.Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    if layers is None or callable(layers):
        chosen = is_convolution if layers is None else layers
        selected = {name: module for name, module in modules.items() if chosen(name, module)}
        if not selected:
            what = "nn.Conv2d or ChildConv2d" if layers is None else "module for which layers(name, module) is true"
            raise ValueError(f"cka: {type(model).__name__} has no {what}")
        return selected
    names = list(layers)
    if not names:
        raise ValueError("cka: layers must name at least one module, got none")
    for name in names:
        if name not in modules:
            close = difflib.get_close_matches(str(name), modules)
            hint = f", did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"cka: {type(model).__name__} has no module {name!r}{hint}")
    return {name: modules[name] for name in names}


class Watch:
    """The Gram matrices of chosen layers of a model, batch by batch.

    `names` are those of the layers in the order in which the first batch ran through them. A layer that runs several
    times in a forward counts each time, the second as "name#2".
    """

    def __init__(self, model: nn.Module, layers: Layers) -> None:
        self.names: tuple[str, ...] = ()
        self._model = model
        self._layers = select(model, layers)
        self._every_layer = not (layers is None or callable(layers))
        self._samples = 0
        self._rows: dict[str, Tensor] = {}

    def rows(self, input: Tensor) -> Tensor:
        """U-centred Gram matrices of the layers over the samples of `input`, [L, B * B] float64 on the CPU."""
        self._samples = len(input)
        if self._samples < FEWEST_SAMPLES:
            raise ValueError(
                f"cka: a batch must have at least {FEWEST_SAMPLES} samples for the unbiased estimator, got"
                f" {self._samples} (a DataLoader with drop_last=True leaves a short last batch out)"
            )
        self._rows.clear()
        with self._watching(), torch.no_grad():
            self._model(input)
        names = tuple(self._rows)
        if not self.names:
            self._check_first(names)
            self.names = names
        elif names != self.names:
            differing = sorted(set(names) ^ set(self.names)) or list(names)
            raise ValueError(
                "cka: every batch must run through the same layers in the same order, but not all did through"
                f" {', '.join(differing)}"
            )
        return torch.stack(list(self._rows.values()))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Eval mode, and a hook on each layer. Afterwards each module is in its former mode, and the hooks are gone."""
        with ExitStack() as stack:
            for name, module in self._layers.items():
                stack.callback(module.register_forward_hook(self._hook(name)).remove)
            stack.enter_context(eval_mode(self._model))
            yield

    def _check_first(self, names: tuple[str, ...]) -> None:
        if not names:
            raise ValueError(f"cka: no forward pass went through any of the layers {', '.join(self._layers)}")
        if self._every_layer:
            for name in self._layers:
                if name not in names:
                    raise ValueError(f"cka: the forward pass did not run layer {name!r}")

    def _hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def keep(module: nn.Module, args: object, output: object) -> None:
            call = name
            number = 1
            while call in self._rows:
                number += 1
                call = f"{name}#{number}"
            self._rows[call] = centre(self._gram(call, output)).flatten().cpu()

        return keep

    def _gram(self, name: str, output: object) -> Tensor:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            got = str(output.dtype).removeprefix("torch.") if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(f"cka: the output of layer {name!r} must be one floating-point tensor, got {got}")
        if output.dim() == 0 or len(output) != self._samples:
            raise ValueError(
                f"cka: the output of layer {name!r} must be [{self._samples}, ...], the first dimension that of the"
                f" input, got {list(output.shape)}"
            )
        result = gram(output)
        if not result.isfinite().all():
            what = "are too large: their products overflow" if output.isfinite().all() else "hold NaN or infinity"
            raise ValueError(f"cka: the features of layer {name!r} {what}")
        return result
