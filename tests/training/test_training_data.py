"""Data sets in memory: idx files, digits, their augmentation, and the order of an epoch."""

import gzip
import os
import signal
import struct

import pytest
import torch
import torch.nn.functional as F

from kerneldna_ops.training import batches
from kerneldna_ops.training.data import Augmentation, DataError
from kerneldna_ops.training.in_memory import InMemory, cut_and_flip, make_data
from kerneldna_ops.training.sources import open_data
from support import tiny

NAMES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("t10k", "images"): "t10k-images-idx3-ubyte",
    ("t10k", "labels"): "t10k-labels-idx1-ubyte",
}


def idx(array):
    magic = 0x800 + array.dim()
    return struct.pack(f">{1 + array.dim()}I", magic, *array.shape) + bytes(array.flatten().tolist())


@pytest.fixture
def arrays():
    shapes = {("train", "images"): (7, 5, 5), ("t10k", "images"): (3, 5, 5)}
    arrays = {key: torch.randint(0, 256, shape, dtype=torch.uint8) for key, shape in shapes.items()}
    arrays["train", "labels"] = torch.tensor([0, 1, 2, 3, 0, 1, 2], dtype=torch.uint8)
    arrays["t10k", "labels"] = torch.tensor([3, 0, 1], dtype=torch.uint8)
    return arrays


@pytest.fixture
def folder(tmp_path, arrays):
    for key, name in NAMES.items():
        (tmp_path / name).write_bytes(idx(arrays[key]))
    return tmp_path


def pixels(split):
    """The images as they were before they were normalised."""
    return (split.load(torch.arange(len(split)))[0] * split.deviation + split.mean).round().to(torch.uint8)


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_come_back_as_they_were_written(folder, arrays, compressed):
    if compressed:
        for name in NAMES.values():
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()
    data = open_data(str(folder))
    assert (data.classes, data.channels, data.image_size, data.name) == (4, 1, 5, folder.name)
    for split, part in ((data.train, "train"), (data.validation, "t10k")):
        assert torch.equal(pixels(split)[:, 0], arrays[part, "images"])
        assert torch.equal(split.load(torch.arange(len(split)))[1], arrays[part, "labels"].long())


def test_images_are_normalised_by_the_training_images(folder):
    data = open_data(str(folder))
    images, _ = data.train.load(torch.arange(7))
    deviation, mean = torch.std_mean(images, correction=0)
    torch.testing.assert_close(torch.stack([deviation, mean]), torch.tensor([1.0, 0.0]), rtol=1e-5, atol=1e-5)


def test_images_of_another_size(folder, arrays):
    data = open_data(str(folder), image_size=9)
    expected = F.interpolate(arrays["t10k", "images"][:, None].float(), (9, 9), mode="bilinear", antialias=True)
    assert data.image_size == 9
    assert torch.equal(pixels(data.validation), expected.round().to(torch.uint8))


def replaced(content, start, new):
    return content[:start] + new + content[start + len(new) :]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("train-images-idx3-ubyte", lambda c: replaced(c, 3, b"\x01"), "magic number is 2051, got 2049"),
        ("train-labels-idx1-ubyte", lambda c: b"", "magic number is 2049, got 0"),
        ("train-images-idx3-ubyte", lambda c: c[:10], "expected an idx file of images"),
        ("train-images-idx3-ubyte", lambda c: c[:-1], r"expected 175 bytes for \[7, 5, 5\], got 174"),
        ("t10k-labels-idx1-ubyte", lambda c: c + b"\x01", r"expected 3 bytes for \[3\], got 4"),
        ("t10k-labels-idx1-ubyte", lambda c: replaced(c[:-1], 7, b"\x02"), "expected 3 labels as .* has, got 2"),
        (
            "t10k-images-idx3-ubyte",
            lambda c: replaced(c[:16], 7, b"\x00"),
            r"at least one of images, got \[0,",
        ),
        ("t10k-labels-idx1-ubyte", lambda c: replaced(c, 8, b"\x04"), "validation labels from 0 to 3, got 0 to 4"),
    ],
)
def test_damaged_idx_files_are_one_sentence(folder, name, change, sentence):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=sentence) as raised:
        open_data(str(folder))
    assert folder.name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_or_damaged_archive_is_one_sentence(folder):
    path = folder / "t10k-images-idx3-ubyte"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: expected this file, or the same with \.gz"):
        open_data(str(folder))
    for damaged in (gzip.compress(content)[:-9], b"not gzip", replaced(gzip.compress(content), 15, b"\xff\xff\xff")):
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: damaged, it does not decompress"):
            open_data(str(folder))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere", "expected digits, torchvision:NAME:ROOT or a folder that exists, got nowhere"),
        ("torchvision:CIFAR10", "expected torchvision:NAME:ROOT, got torchvision:CIFAR10"),
    ],
)
def test_no_data_set_at_all_is_one_sentence(spec, sentence):
    with pytest.raises(DataError, match=sentence):
        open_data(spec)


def test_images_that_do_not_go_together_are_one_sentence():
    images, labels = torch.randint(0, 256, (4, 1, 5, 5), dtype=torch.uint8), torch.arange(4)
    with pytest.raises(DataError, match=r"square images of one size, got \[1, 5, 5\] .* and \[1, 5, 4\]"):
        make_data("mine", (images, labels), (images[..., :4], labels))
    with pytest.raises(DataError, match="expected training images that differ"):
        make_data("mine", (torch.zeros_like(images), labels), (images, labels))
    with pytest.raises(DataError, match="training labels from 0 to 3, got -1 to 2"):
        make_data("mine", (images, labels - 1), (images, labels), list("abcd"))


def test_the_digits():
    pytest.importorskip("sklearn")
    data = open_data("digits")
    assert (len(data.train), len(data.validation), data.classes, data.channels) == (898, 899, 10, 1)
    parts = [split.load(torch.arange(len(split))) for split in (data.train, data.validation)]
    assert parts[0][0].shape == (898, 1, 32, 32)
    together = torch.cat([images for images, _ in parts]).flatten(1)
    assert len(torch.unique(together, dim=0)) == 1797, "every image stands in exactly one part"
    assert open_data("digits", image_size=16).train.load(torch.tensor([0]))[0].shape == (1, 1, 16, 16)


def test_missing_scikit_learn_is_one_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match="the digits need scikit-learn"):
        open_data("digits")


def test_cut_and_flip_against_a_loop():
    images = torch.arange(4 * 2 * 5 * 5, dtype=torch.uint8).reshape(4, 2, 5, 5)
    draws = torch.tensor([[0.0, 0.0, 0.9], [0.99, 0.0, 0.9], [0.5, 0.5, 0.1], [0.3, 0.7, 0.2]])
    result = cut_and_flip(images, Augmentation(0, 0, 2, True), draws)
    for image, (down, right, flip), got in zip(images, draws.tolist(), result, strict=True):
        top, left = int(down * 5), int(right * 5)
        expected = F.pad(image, [2, 2, 2, 2])[:, top : top + 5, left : left + 5]
        assert torch.equal(got, expected.flip(2) if flip < 0.5 else expected)
    assert torch.equal(cut_and_flip(images, Augmentation(0, 0, 0, False), draws), images)


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    train = tiny.data().train
    this = Augmentation(3, 1, 2, True)
    everything, labels = train.load(torch.arange(41), this)
    some = torch.tensor([40, 2, 17])
    assert torch.equal(train.load(some, this)[0], everything[some])
    assert torch.equal(train.load(some, this)[1], labels[some])
    fresh = InMemory(train.images, train.labels, train.mean[:, 0, 0], train.deviation[:, 0, 0])
    assert torch.equal(fresh.load(some, this)[0], everything[some])
    for other in (Augmentation(4, 1, 2, True), Augmentation(3, 2, 2, True)):
        assert not torch.equal(train.load(torch.arange(41), other)[0], everything)
    assert torch.equal(train.load(torch.arange(41), this)[0], everything), "and not on what was asked for in between"


def test_augmentation_draws_all_there_is_and_nothing_too_often():
    count = 3000
    image = torch.randint(1, 256, (1, 1, 3, 3), dtype=torch.uint8)
    split = InMemory(image.expand(count, -1, -1, -1), torch.zeros(count).long(), torch.zeros(1), torch.ones(1))
    this = Augmentation(0, 0, 1, True)
    places = torch.tensor([[y, x, flip] for y in (0.1, 0.5, 0.9) for x in (0.1, 0.5, 0.9) for flip in (0.1, 0.9)])
    possible = cut_and_flip(image.expand(18, -1, -1, -1), this, places).flatten(1)
    drawn = split.load(torch.arange(count), this)[0].flatten(1)
    counts = (drawn[:, None] == possible).all(2).sum(0)
    assert counts.sum() == count
    assert ((counts > 0.6 * count / 18) & (counts < 1.4 * count / 18)).all()


def test_the_order_of_an_epoch():
    orders = {(seed, epoch): batches.order(41, seed, epoch) for seed in range(2) for epoch in range(2)}
    for key, order in orders.items():
        assert torch.equal(order.sort().values, torch.arange(41))
        assert torch.equal(batches.order(41, *key), order)
    assert len({tuple(order.tolist()) for order in orders.values()}) == 4


@pytest.mark.parametrize(
    ("count", "batch_size", "processes", "sizes"),
    [
        (16, 8, 1, [8, 8]),
        (19, 8, 1, [8, 8, 3]),
        (17, 8, 1, [8, 9]),  # BatchNorm cannot train on one sample
        (3, 1, 1, [1, 1, 1]),
        (19, 8, 2, [8, 10]),  # one for each process, and one for none
        (21, 8, 2, [8, 8, 4]),
        (17, 8, 2, [8, 8]),
        (8, 8, 4, [8]),
        (9, 4, 4, [4, 4]),
    ],
)
def test_the_last_batch_has_what_is_left(count, batch_size, processes, sizes):
    order = batches.order(count, 0, 0)
    cut = batches.cut(order, batch_size, processes)
    assert [len(batch) for batch in cut] == sizes
    assert torch.equal(torch.cat(cut), order[: sum(sizes)])


def test_batches_are_the_same_from_any_number_of_workers():
    train = tiny.data().train
    chosen = list(batches.order(41, 0, 0).split(8))
    this = Augmentation(0, 0, 2, True)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded = [list(batches.load(train, chosen, this, workers)) for workers in (0, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    for (images, labels), other, indices in zip(*loaded, chosen, strict=True):
        assert torch.equal(images, other[0])
        assert torch.equal(labels, other[1])
        assert torch.equal(labels, train.labels[indices])


def test_workers_outlive_ctrl_c():
    class Pids:
        def load(self, indices, augmentation):
            return indices, torch.tensor(os.getpid())

    loader = batches.load(Pids(), list(torch.arange(8).split(1)), workers=1)
    _, worker = next(loader)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(int(worker), number)
    assert len(list(loader)) == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_an_image_comes_as_one_sentence(workers):
    class Damaged:
        def load(self, indices, augmentation):
            if 3 in indices:
                raise DataError("mine/3.png: not an image")
            return indices, indices

    loader = batches.load(Damaged(), list(torch.arange(4).split(2)), workers=workers)
    assert torch.equal(next(loader)[0], torch.tensor([0, 1]))
    with pytest.raises(DataError, match=r"^mine/3.png: not an image$"):
        next(loader)
