"""Images of folders: every kind of pixel by the range of its type, and what is no image file."""

import os

import pytest
import torch

np = pytest.importorskip("numpy", reason="images in files need NumPy")
pytest.importorskip("PIL", reason="images in files need Pillow")
pytest.importorskip("torchvision", reason="images in files need torchvision", exc_type=ImportError)

from PIL import Image  # noqa: E402

from kerneldna_ops.training.data import DataError  # noqa: E402
from kerneldna_ops.training.folders import DEVIATION, MEAN  # noqa: E402
from kerneldna_ops.training.sources import open_data  # noqa: E402

SIDE = 16
SIXTEEN_BITS = np.linspace(0, 65535, SIDE * SIDE).round().astype(np.uint16).reshape(SIDE, SIDE)


@pytest.fixture
def folder(tmp_path):
    """train and val with a class of an image each."""
    for part in ("train", "val"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (SIDE, SIDE)).save(tmp_path / part / "cat" / "0.png")
    return tmp_path


def pixels(path):
    """[3, 14, 14] in [0, 1]: the middle of an image of 16 x 16 beside the one in `folder`."""
    [image], _ = open_data(str(path.parents[2]), 14).validation.load(torch.tensor([1]))
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return image * deviation + mean


def big_endian(path):
    """A TIFF file of 16-bit grey, which Pillow does not write in this order of bytes."""
    entries = [(256, SIDE), (257, SIDE), (258, 16), (259, 1), (262, 1), (273, 122), (277, 1), (278, SIDE), (279, 512)]
    head = b"MM\0*" + (8).to_bytes(4, "big") + len(entries).to_bytes(2, "big")
    for tag, value in entries:
        head += b"".join([tag.to_bytes(2, "big"), b"\0\3\0\0\0\1", value.to_bytes(2, "big"), b"\0\0"])
    path.write_bytes(head + bytes(4) + SIXTEEN_BITS.astype(">u2").tobytes())


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.pgm", "big endian.tif"])
def test_grey_in_16_bits_is_scaled(folder, name):
    path = folder / "val" / "cat" / name
    if name == "big endian.tif":
        big_endian(path)
    elif name == "1.pgm":
        path.write_bytes(f"P5 {SIDE} {SIDE} 65535\n".encode() + SIXTEEN_BITS.astype(">u2").tobytes())
    else:
        Image.fromarray(SIXTEEN_BITS).save(path)
    expected = torch.from_numpy(SIXTEEN_BITS[1:15, 1:15] / 65535).float().expand(3, -1, -1)
    torch.testing.assert_close(pixels(path), expected, rtol=0, atol=0.6 / 255)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_kinds_are_as_pillow_has_them(folder, mode):
    path = folder / "val" / "cat" / ("1.tif" if mode in ("CMYK", "YCbCr") else "1.png")
    colours = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(colours.numpy()).convert(mode).save(path)
    rgb = np.asarray(Image.open(path).convert("RGB"))
    expected = torch.from_numpy(rgb[1:15, 1:15].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(pixels(path), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tag", [b"\2\1\3\0\1\0\0\0\x0c", b"\6\1\3\0\1\0\0\0\0"], ids=["12 bits", "white is 0"])
def test_grey_of_another_range_is_refused(folder, tag):
    path = folder / "val" / "cat" / "1.tif"
    Image.fromarray(SIXTEEN_BITS).save(path)
    content = path.read_bytes()
    start = content.index(tag[:-1])
    path.write_bytes(content[:start] + tag + content[start + len(tag) :])
    with pytest.raises(
        DataError, match=r"cat/1\.tif: no image .* \(grey values are not in 16 bits from black to white\)"
    ):
        pixels(path)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.float32, "floating point"), (np.int32, "32-bit integers")], ids=["float", "int"]
)
def test_pixels_whose_range_nothing_tells_are_refused(folder, dtype, kind):
    path = folder / "val" / "cat" / "1.tif"
    Image.fromarray(np.linspace(0, 1000, SIDE * SIDE).astype(dtype).reshape(SIDE, SIDE)).save(path)
    with pytest.raises(DataError, match=rf"cat/1\.tif: no image that can be read \(pixels are {kind}, whose range"):
        pixels(path)


def a_loop(path):
    path.symlink_to(path)


def a_broken_link(path):
    path.symlink_to(path.with_name("nothing"))


def a_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, a_device, a_loop, a_broken_link])
def test_what_is_no_file_is_refused(folder, make):
    path = folder / "val" / "cat" / "1.png"
    make(path)
    with pytest.raises(DataError, match=r"cat/1\.png: no image that can be read \(not a regular file\); put one"):
        pixels(path)


def test_a_folder_that_leads_back_to_itself_is_refused(folder):
    (folder / "val" / "cat" / "again").symlink_to(folder / "val" / "cat")
    with pytest.raises(DataError, match=r"cat/again: a link to .*/val/cat, whose images would count twice"):
        open_data(str(folder))


def test_a_class_may_be_a_link(folder, tmp_path):
    (folder / "elsewhere").mkdir()
    for part in ("train", "val"):
        (folder / part / "cat").rename(folder / "elsewhere" / part)
        (folder / part / "cat").symlink_to(folder / "elsewhere" / part)
    assert len(open_data(str(folder)).train) == 1


def test_a_pipe_is_no_idx_file(tmp_path):
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="expected a folder for each class"):
        open_data(str(tmp_path))


def test_no_images_at_all(folder):
    images, labels = open_data(str(folder), 14).train.load(torch.tensor([], dtype=torch.int64))
    assert images.shape == (0, 3, 14, 14)
    assert labels.dtype == torch.int64
