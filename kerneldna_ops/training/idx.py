"""The files of MNIST, Fashion-MNIST and their like: idx, bytes in up to three dimensions, plain or compressed."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .data import DataError

# The first four bytes: two zeros, 8 for unsigned bytes, the number of dimensions.
_MAGIC = {"images": (0x803, 3), "labels": (0x801, 1)}
PARTS = ("train", "t10k")


def has_idx_files(folder: Path) -> bool:
    """Whether one of the four files is there."""
    return any(path.is_file() for part in PARTS for kind in _MAGIC for path in _candidates(folder, part, kind))


def read_part(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [N, H, W] uint8 and labels [N] int64 of `part`, one of PARTS.

    DataError if a file is missing, damaged or empty, or there is not one label for each image.
    """
    (images_path, images), (labels_path, labels) = (_read(folder, part, kind) for kind in _MAGIC)
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: expected {len(images)} labels as {images_path.name} has, got {len(labels)}")
    return images, labels.long()


def _candidates(folder: Path, part: str, kind: str) -> list[Path]:
    name = f"{part}-{kind}-idx{_MAGIC[kind][1]}-ubyte"
    return [folder / name, folder / f"{name}.gz"]


def _read(folder: Path, part: str, kind: str) -> tuple[Path, Tensor]:
    plain, compressed = _candidates(folder, part, kind)
    if plain.is_file():
        return plain, _parse(plain, plain.read_bytes(), kind)
    if not compressed.is_file():
        raise DataError(f"{plain}: expected this file, or the same with .gz, beside the others of the data set")
    try:
        with gzip.open(compressed) as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{compressed}: damaged, it does not decompress ({error})") from error
    return compressed, _parse(compressed, content, kind)


def _parse(path: Path, content: bytes, kind: str) -> Tensor:
    magic, dimensions = _MAGIC[kind]
    header = 4 + 4 * dimensions
    found = int.from_bytes(content[:4], "big")
    if found != magic or len(content) < header:
        raise DataError(f"{path}: expected an idx file of {kind}, whose magic number is {magic}, got {found}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if 0 in shape:
        raise DataError(f"{path}: expected at least one of {kind}, got {list(shape)}")
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes for {list(shape)}, got {len(content) - header} (cut short?)"
        )
    # A copy, because what lies in `content` cannot be written to.
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)
