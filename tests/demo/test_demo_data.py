import pytest
import torch
from sklearn import datasets

from kerneldna_ops.demo.data import load_digits

PARTS = ("train", "validation", "test")


def test_every_image_is_in_exactly_one_part(digits):
    parts = [getattr(digits, name) for name in PARTS]
    assert [len(part) for part in parts] == [718, 180, 899]
    together = torch.cat([part.images for part in parts]).flatten(1)
    source = torch.tensor(datasets.load_digits().images).flatten(1)
    assert len(torch.unique(together, dim=0)) == len(torch.unique(source, dim=0)) == len(source)


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_the_proportions_of_the_classes(digits, name):
    part = getattr(digits, name)
    shares = part.labels.bincount(minlength=10) / len(part)
    torch.testing.assert_close(shares, torch.tensor(datasets.load_digits().target).bincount() / 1797, rtol=0, atol=0.01)


def test_images_are_normalised_by_the_training_images_alone(digits):
    deviation, mean = torch.std_mean(digits.train.images)
    torch.testing.assert_close(torch.stack([deviation, mean]), torch.tensor([1.0, 0.0]), rtol=0, atol=1e-5)
    deviation, mean = torch.std_mean(digits.test.images)
    assert abs(float(mean)) > 1e-4
    assert abs(float(deviation) - 1) > 1e-4


def test_labels_stay_with_their_images(digits):
    """The mean over 4x4 blocks of the enlarged image is close to the original: find each among the originals."""
    source = datasets.load_digits()
    originals = torch.tensor(source.images, dtype=torch.float32).flatten(1)
    originals = (originals - originals.mean(1, keepdim=True)) / originals.std(1, keepdim=True)
    small = torch.nn.functional.avg_pool2d(digits.test.images, 4).flatten(1)
    small = (small - small.mean(1, keepdim=True)) / small.std(1, keepdim=True)
    nearest = torch.cdist(small, originals).argmin(1)
    assert torch.equal(torch.tensor(source.target)[nearest], digits.test.labels)


def test_the_split_is_the_same_every_time(digits):
    again = load_digits()
    for name in PARTS:
        assert torch.equal(getattr(again, name).images, getattr(digits, name).images)
        assert torch.equal(getattr(again, name).labels, getattr(digits, name).labels)
