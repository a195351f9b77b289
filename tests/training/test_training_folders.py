"""Images in files, through torchvision."""

import pytest
import torch

pytest.importorskip("PIL", reason="images in files need Pillow")
torchvision = pytest.importorskip("torchvision", reason="images in files need torchvision", exc_type=ImportError)

from PIL import Image  # noqa: E402

from kerneldna_ops.training import batches, folders  # noqa: E402
from kerneldna_ops.training.data import Augmentation, DataError  # noqa: E402
from kerneldna_ops.training.sources import open_data  # noqa: E402

AUGMENTATION = Augmentation(seed=0, epoch=1, crop_padding=4, flip=True)


def write_image(path, size=(20, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = 1 if mode == "L" else 3
    pixels = torch.randint(0, 256, (size[1], size[0], channels), dtype=torch.uint8).numpy()
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels).save(path)


@pytest.fixture
def parted(tmp_path):
    """train and val with two classes, of 3 and 2 images each."""
    for part, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                write_image(tmp_path / part / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def whole(tmp_path):
    """Class folders alone, of 12 and 11 images."""
    for name, count in (("cat", 12), ("dog", 11)):
        for number in range(count):
            write_image(tmp_path / name / f"{number:02}.png")
    return tmp_path


def test_train_and_val(parted):
    data = open_data(str(parted), image_size=14)
    assert (data.class_names, data.classes, data.channels, data.image_size) == (("cat", "dog"), 2, 3, 14)
    assert (len(data.train), len(data.validation)) == (6, 4)
    images, labels = data.validation.load(torch.arange(4))
    assert images.shape == (4, 3, 14, 14)
    assert images.dtype == torch.float32
    assert labels.tolist() == [0, 0, 1, 1]
    assert open_data(str(parted)).image_size == 224


def test_validation_images_are_the_middle_normalised_as_imagenets(tmp_path):
    """No resizing where the shorter side is 8/7 of the images' size."""
    for part in ("train", "val"):
        write_image(tmp_path / part / "cat" / "0.png", size=(20, 16))
    image = Image.open(tmp_path / "val" / "cat" / "0.png")
    rows = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(16, 20, 3)
    pixels = rows[1:15, 3:17].permute(2, 0, 1) / 255
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    [got], _ = open_data(str(tmp_path), 14).validation.load(torch.tensor([0]))
    torch.testing.assert_close(got, (pixels - mean) / deviation)


def test_every_tenth_image_of_a_class_is_for_validation(whole):
    data = open_data(str(whole), image_size=8)
    files = [
        [split.dataset.samples[index][0].removeprefix(f"{whole}/") for index in split.indices]
        for split in (data.train, data.validation)
    ]
    assert files[1] == ["cat/00.png", "cat/10.png", "dog/00.png", "dog/10.png"]
    assert sorted(files[0] + files[1]) == [str(path.relative_to(whole)) for path in sorted(whole.glob("*/*"))]
    _, labels = data.train.load(torch.arange(19))
    assert labels.tolist() == [0] * 10 + [1] * 9


def test_augmentation_depends_on_seed_epoch_and_index_alone(parted):
    train = open_data(str(parted), image_size=8).train
    torch.manual_seed(1)
    before = torch.get_rng_state()
    images, labels = train.load(torch.arange(6), AUGMENTATION)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(train.load(torch.tensor([4, 1]), AUGMENTATION)[0], images[[4, 1]])
    other = Augmentation(seed=0, epoch=2, crop_padding=4, flip=True)
    assert not torch.equal(train.load(torch.arange(6), other)[0], images)
    [(loaded, loaded_labels)] = batches.load(train, [torch.arange(6)], AUGMENTATION, workers=1)
    assert torch.equal(loaded, images)
    assert torch.equal(loaded_labels, labels)


def test_copies_of_an_image_are_changed_differently(tmp_path):
    for part in ("train", "val"):
        write_image(tmp_path / part / "cat" / "0.png")
    for number in range(1, 5):
        (tmp_path / "train" / "cat" / f"{number}.png").hardlink_to(tmp_path / "train" / "cat" / "0.png")
    images, _ = open_data(str(tmp_path), 8).train.load(torch.arange(5), AUGMENTATION)
    assert len(torch.unique(images.flatten(1), dim=0)) == 5


def test_images_are_flipped_only_if_asked(tmp_path, monkeypatch):
    for part in ("train", "val"):
        write_image(tmp_path / part / "cat" / "0.png")
    train = open_data(str(tmp_path), 8).train
    monkeypatch.setattr(train, "_random_flip", lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    flipped, plain = (train.load(torch.tensor([0]), Augmentation(0, 0, 0, flip))[0] for flip in (True, False))
    assert torch.equal(flipped, plain.flip(3))


def test_grey_images_are_taken_as_colour(tmp_path):
    for part in ("train", "val"):
        write_image(tmp_path / part / "cat" / "0.png", mode="L")
    images, _ = open_data(str(tmp_path), 8).train.load(torch.tensor([0]), AUGMENTATION)
    assert images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("damage", [lambda c: c[:200], lambda c: b"no image", lambda c: b""])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_one_sentence_with_its_name(parted, damage, workers):
    path = parted / "train" / "dog" / "1.png"
    path.write_bytes(damage(path.read_bytes()))
    train = open_data(str(parted), image_size=8).train
    with pytest.raises(DataError, match=r"train/dog/1\.png: no image that can be read") as raised:
        list(batches.load(train, list(torch.arange(6).split(2)), AUGMENTATION, workers))
    assert "\n" not in str(raised.value)


def test_folders_that_are_not_as_expected_are_one_sentence(parted):
    (parted / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"train/bird: expected images, got a folder without any"):
        open_data(str(parted))
    write_image(parted / "train" / "bird" / "0.png")
    with pytest.raises(DataError, match="expected the same class folders in train and val, got bird in one of them"):
        open_data(str(parted))
    (parted / "val").rename(parted / "test")
    with pytest.raises(DataError, match="expected a folder val beside train"):
        open_data(str(parted))


def test_a_folder_without_classes_or_with_a_single_image_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="expected a folder for each class, with its images in it"):
        open_data(str(tmp_path))
    write_image(tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match="cat: expected at least 2 images, got 1"):
        open_data(str(tmp_path))


@pytest.mark.parametrize("error", [ImportError("none"), RuntimeError("operator torchvision::nms does not exist")])
def test_missing_or_broken_torchvision_is_one_sentence(tmp_path, monkeypatch, error):
    def fail(name, *arguments, real=__import__, **keywords):
        if name.startswith("torchvision"):
            raise error
        return real(name, *arguments, **keywords)

    monkeypatch.setattr("builtins.__import__", fail)
    with pytest.raises(ModuleNotFoundError, match=f"images in files need torchvision, .*: {error}"):
        open_data(str(tmp_path))


class InMemorySet:
    """As torchvision's CIFAR10."""

    def __init__(self, root, train=True, download=True):
        assert not download
        self.classes = ["cat", "dog"]
        self.targets = [0, 1, 1] if train else [1]
        self.data = torch.arange(len(self.targets) * 4 * 4 * 3, dtype=torch.uint8).reshape(-1, 4, 4, 3).numpy()


class FileSet:
    """As torchvision's Food101."""

    def __init__(self, root, split="train", download=True):
        if split not in ("train", "test"):
            raise ValueError(f"unknown split {split}")
        self.root, self.split, self.classes = root, split, ["cat", "dog"]

    def __len__(self):
        return 2 if self.split == "train" else 1

    def __getitem__(self, index):
        return Image.new("RGB", (10, 10)), index


class MissingSet:
    def __init__(self, root, train=True, download=True):
        raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")


@pytest.fixture
def torchvision_set(monkeypatch):
    def add(kind):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
        monkeypatch.setattr(torchvision.datasets, "__all__", (*torchvision.datasets.__all__, kind.__name__))
        return f"torchvision:{kind.__name__}:somewhere"

    return add


def test_torchvisions_sets_in_memory(torchvision_set):
    data = open_data(torchvision_set(InMemorySet))
    assert (data.name, data.class_names, data.channels, data.image_size) == ("InMemorySet", ("cat", "dog"), 3, 4)
    images, labels = data.train.load(torch.arange(3))
    pixels = torch.from_numpy(InMemorySet(None, download=False).data).permute(0, 3, 1, 2)
    torch.testing.assert_close(images * data.train.deviation + data.train.mean, pixels.float())
    assert labels.tolist() == [0, 1, 1]


def test_torchvisions_sets_in_files(torchvision_set):
    data = open_data(torchvision_set(FileSet), image_size=8)
    assert (len(data.train), len(data.validation), data.classes) == (2, 1, 2)
    assert data.train.load(torch.tensor([1, 0]), AUGMENTATION)[1].tolist() == [1, 0]


def test_torchvisions_sets_that_are_not_there_are_one_sentence(torchvision_set):
    with pytest.raises(DataError, match="torchvision has no data set of that name"):
        open_data("torchvision:CIFAR11:data")
    with pytest.raises(DataError, match="not found in somewhere, or damaged"):
        open_data(torchvision_set(MissingSet))
    with pytest.raises(DataError, match="CIFAR10: not found in nowhere, or damaged"):
        open_data("torchvision:CIFAR10:nowhere")


def test_the_middle_and_what_is_around_it():
    assert folders.SIDE * 8 // 7 == 256, "as everywhere for images of 224 pixels"
