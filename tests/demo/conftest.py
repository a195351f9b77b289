import pytest

for needed in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(needed, reason=f"the demo needs {needed}")

from kerneldna_ops.demo.data import Digits, Images, load_digits  # noqa: E402


@pytest.fixture(scope="session")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="session")
def few_digits(digits) -> Digits:
    """96 training images: three batches."""
    parts = ((digits.train, 96), (digits.validation, 40), (digits.test, 60))
    return Digits(*(Images(part.images[:count], part.labels[:count]) for part, count in parts))


@pytest.fixture(scope="module", autouse=True)
def on_one_thread(one_thread):
    """Every module of this folder."""
