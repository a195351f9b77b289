"""The oldest torch and Python are stated in setup.py, which compiles for them, and in pyproject.toml: the same."""

import re

import pytest
from test_wheel import metadata

from support.commands import ROOT


def dotted(version):
    return ".".join(map(str, version))


def test_installing_asks_for_the_torch_that_the_library_is_compiled_for(setup_py, wheel):
    needs = [need for need in metadata(wheel, "METADATA").get_all("Requires-Dist") if "extra ==" not in need]
    assert needs == [f"torch>={dotted(setup_py.TORCH_FLOOR)}"]


def test_building_asks_for_the_same_torch(setup_py):
    text = (ROOT / "pyproject.toml").read_text()
    (requires,) = re.findall(r"^requires = \[(.*)\]$", text, re.MULTILINE)
    assert f'"torch>={dotted(setup_py.TORCH_FLOOR)}"' in requires


def test_the_python_floor_is_the_tag_of_the_wheel(setup_py, wheel):
    assert metadata(wheel, "METADATA")["Requires-Python"] == f">={dotted(setup_py.PYTHON_FLOOR)}"
    assert f"-cp{''.join(map(str, setup_py.PYTHON_FLOOR))}-abi3-" in wheel.name


@pytest.mark.parametrize(
    ("version", "number"),
    [((2, 9), "0x0209000000000000"), ((2, 11), "0x020b000000000000"), ((3, 0), "0x0300000000000000")],
)
def test_target_version_has_one_byte_for_each_part(setup_py, version, number):
    assert setup_py.version_number(version) == number


def test_the_pinned_torch_is_not_older_than_the_floor(setup_py):
    (pinned,) = re.findall(r"^torch==(\d+)\.(\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert tuple(map(int, pinned)) >= setup_py.TORCH_FLOOR
