"""Linear CKA between the layers of networks, estimated without bias from batches that stream past."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .._extras import missing
from .gram import hsic
from .layers import Layers, Watch

Batches: TypeAlias = Iterable[Tensor | Sequence[Tensor]]


@dataclass(frozen=True, eq=False)
class CKA:
    """Similarity of layers: matrix[i, j] is that of names[i] and columns[j], float64 on the CPU.

    Within one network columns are names, in the order of execution; "name#2" is the second run of a layer in a forward.
    1: the same but for rotation and scale; 0: unrelated. The estimator has no bias, so noise takes what is unrelated
    below 0 too. NaN: one of the two layers gave the same features for all samples, and CKA does not exist.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    matrix: Tensor
    batches: int
    samples: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """CKA within one network, within another, and across: names of the first, columns of the second."""

    before: CKA
    after: CKA
    across: CKA


def cka(model: nn.Module, batches: Batches, layers: Layers = None, *, progress: bool = False) -> CKA:
    """Linear CKA between the outputs of all pairs of layers of `model`, over the samples of all batches.

    CKA is that of Kornblith et al. (2019), "Similarity of Neural Network Representations Revisited", in the minibatch
    form of Nguyen, Raghu and Kornblith (2021), "Do Wide and Deep Networks Learn the Same Things?": with the unbiased
    HSIC_1 (gram.py) between the Gram matrices of each batch,

        CKA(i, j) = mean HSIC_1(K_i, K_j) / sqrt(mean HSIC_1(K_i, K_i) * mean HSIC_1(K_j, K_j)).

    A batch counts in the means with its number of samples. Only [B, B] matrices are kept, and those of one batch at a
    time, so memory does not grow with the number of batches. The larger the batches, the smaller the variance.

    The model runs in eval mode, without gradient, and is left as it was, also after an exception.

    Args:
        model: takes one tensor.
        batches: inputs [B, ...] with B at least 4, on the model's device; of a tuple or list, such as (images, labels),
            the first entry is the input.
        layers: None for all convolutions (nn.Conv2d, ChildConv2d), or a name or names of modules, or a predicate of
            (name, module). Their outputs are [B, ...], of any float dtype.
        progress: whether to show a bar (needs tqdm).

    Raises:
        ValueError: there is no such layer, no batch, or too small a batch; features are not finite; a layer that was
            named did not run, or not all batches ran through the same layers.
        TypeError: an argument, or the output of a layer, has the wrong type.
    """
    (watch,), matrix, count, samples = _stream([model], batches, layers, progress)
    return CKA(watch.names, watch.names, matrix, count, samples)


def compare(
    before: nn.Module, after: nn.Module, batches: Batches, layers: Layers = None, *, progress: bool = False
) -> Comparison:
    """CKA within two networks and across them, from one pass over the same batches; the rest is as for `cka`."""
    watches, matrix, count, samples = _stream([before, after], batches, layers, progress)
    first, second = (watch.names for watch in watches)
    split = len(first)
    return Comparison(
        before=CKA(first, first, matrix[:split, :split], count, samples),
        after=CKA(second, second, matrix[split:, split:], count, samples),
        across=CKA(first, second, matrix[:split, split:], count, samples),
    )


def _stream(
    models: Sequence[nn.Module], batches: Batches, layers: Layers, progress: bool
) -> tuple[list[Watch], Tensor, int, int]:
    """What watched the models, CKA between all their layers, and the numbers of batches and of samples."""
    if isinstance(batches, Tensor):
        raise TypeError("cka: batches must be an iterable of batches, got one tensor (for one batch, [tensor])")
    if layers is not None and not callable(layers):
        layers = [layers] if isinstance(layers, str) else list(layers)
    watches = [Watch(model, layers) for model in models]
    total = torch.zeros(())
    count = samples = 0
    for batch in _with_bar(batches) if progress else batches:
        input = _input(batch)
        total = total + len(input) * hsic(torch.cat([watch.rows(input) for watch in watches]), len(input))
        count += 1
        samples += len(input)
    if count == 0:
        raise ValueError("cka: batches must hold at least one batch, got none")
    total = (total + total.T) / 2  # symmetric but for rounding
    norms = total.diagonal().sqrt()
    return watches, total / (norms[:, None] * norms), count, samples


def _input(batch: Tensor | Sequence[Tensor]) -> Tensor:
    input = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(input, Tensor) or input.dim() == 0:
        got = "a scalar" if isinstance(input, Tensor) else type(input).__name__
        raise TypeError(f"cka: a batch must be a tensor [B, ...], or a tuple or list that starts with one, got {got}")
    return input


def _with_bar(batches: Batches) -> Batches:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        raise missing("cka: progress=True needs tqdm", "train", error) from error
    return tqdm(batches, desc="CKA", unit="batch")  # type: ignore[no-any-return]
