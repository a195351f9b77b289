"""What is said where a package is missing that only a part needs: how to install it from what there is, a checkout or a
wheel file, by an extra that there is."""

import ast
import re
import subprocess
import sys

import pytest

from kerneldna_ops._extras import TOGETHER, how_to_install, missing
from support.commands import ROOT


def test_how_to_install_an_extra():
    assert "`pip install --no-build-isolation '.[train]'` in the checkout" in how_to_install("train")
    assert "`pip install 'FILE.whl[train]'`" in how_to_install("train")


def test_a_package_that_is_not_there_comes_with_an_extra():
    error = missing("the demo needs tea", "demo", ModuleNotFoundError("No module named 'tea'"))
    assert type(error) is ModuleNotFoundError
    assert str(error) == (
        f"the demo needs tea, which cannot be imported: No module named 'tea'; {how_to_install('demo')}"
    )


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("_C.so: ...")])
def test_a_package_that_does_not_load_was_built_for_another_torch(error):
    assert str(missing("this needs torchvision", "train", error)).endswith(f"{error}; {TOGETHER}")


def calls():
    """(file, extra) of every call of how_to_install and missing with an extra in its words."""
    for path in sorted([*(ROOT / "kerneldna_ops").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("how_to_install", "missing"):
                extra = node.args[-2] if node.func.id == "missing" else node.args[0]
                if isinstance(extra, ast.Constant):
                    yield path.name, extra.value


def test_every_extra_that_is_named_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    named = list(calls())
    assert {file for file, _ in named} >= {
        "__main__.py",
        "_checks.py",
        "registry.py",
        "folders.py",
        "heatmaps.py",
        "similarity.py",
    }
    assert {extra for _, extra in named} <= extras


def test_nothing_is_installed_by_a_name_that_no_index_has():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    sources = [path for folder in ("kerneldna_ops", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    named = [path for path in (*pages, *sources) if re.search(r"install \S*kerneldna.ops\[?", path.read_text())]
    assert named == []


ATTRIBUTES = """
import sys
import kerneldna_ops.models as models
assert not {"kerneldna_ops.models.detection", "kerneldna_ops.models.segmentation"} & set(sys.modules)
print(models.detection.__name__, models.segmentation.__name__)
"""


def test_models_for_dense_prediction_are_attributes_and_imported_when_asked_for():
    done = subprocess.run([sys.executable, "-c", ATTRIBUTES], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["kerneldna_ops.models.detection", "kerneldna_ops.models.segmentation"], done.stderr
