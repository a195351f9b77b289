"""A checkout beside an installed package, one that was only built in place, and make where a path has spaces."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import kerneldna_ops
from support.commands import ROOT, run

CALL = "import kerneldna_ops, kerneldna_ops.triton_kernels; print(kerneldna_ops.__file__, kerneldna_ops.__version__)"


def test_one_without_a_library_says_that_it_hides_the_installed_package(clean_python, checkout):
    for code in (["-c", CALL], ["-m", "kerneldna_ops.env"]):
        done = subprocess.run([clean_python, *code], cwd=checkout, capture_output=True, text=True)
        assert done.returncode == 1
        (installed,) = clean_python.parents[1].glob("lib/python*/site-packages")
        assert done.stderr.splitlines()[-1] == (
            f"ImportError: kerneldna_ops in {checkout} has no C++ library and hides the installed one in {installed}:"
            " run Python in another folder, or install this one too, by `pip install --no-build-isolation -e .` in it"
        )


@pytest.fixture
def built_in_place(library, tmp_path):
    """What `setup.py build_ext --inplace` makes of a checkout: a library, and no metadata of a package."""
    for folder in ("kerneldna_ops", "triton_kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(library, tmp_path / "kerneldna_ops")
    return tmp_path


def test_one_that_was_built_in_place_is_imported(built_in_place):
    torch_alone = os.environ | {"PYTHONPATH": str(Path(torch.__file__).parents[1])}
    # -S: .pth files are not read, and so packages that are editable here are not seen.
    told = run([sys.executable, "-S", "-c", CALL], cwd=built_in_place, env=torch_alone)
    assert told.startswith(str(built_in_place / "kerneldna_ops" / "__init__.py"))


def test_one_that_is_not_installed_has_no_version(monkeypatch):
    def not_found(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", not_found)
    assert kerneldna_ops.__version__ == "0+unknown"


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
TOOL = """#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "{folder}/said"
case "$(basename "$0")" in auditwheel) command -v auditwheel > "{folder}/found"; mkdir -p dist;; esac
"""


@pytest.fixture
def stand_ins(tmp_path):
    """A checkout in a folder with spaces, whose .venv has stand-ins that write down how they are called."""
    folder = tmp_path / "with some spaces"
    tools = folder / ".venv/bin"
    tools.mkdir(parents=True)
    for name in ("python", "auditwheel", "ruff", "mypy", "clang-format"):
        (tools / name).write_text(TOOL.format(folder=folder))
        (tools / name).chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("csrc", "tests"):
        (folder / name).mkdir()
    (folder / ".venv/installed").touch()
    return folder


@needs_make
@pytest.mark.parametrize("target", ["build", "demo", "lint", "wheel", "cuda-library", "clean"])
def test_make_works_where_a_path_has_spaces(stand_ins, target):
    (stand_ins / "kerneldna_ops").mkdir()
    run(["make", target, "KERNELDNA_NO_CUDA=1"], cwd=stand_ins)
    if target == "wheel":
        assert (stand_ins / "found").read_text().strip() == str(stand_ins / ".venv/bin/auditwheel")


@needs_make
def test_make_installs_the_torch_and_from_where_it_is_told(stand_ins):
    def installs(*arguments):
        lines = run(["make", "-n", "-B", "venv", *arguments], cwd=stand_ins).splitlines()
        return [line for line in lines if "pip install" in line]

    assert all("-c constraints.txt" in line for line in installs())
    for line in installs("TORCH=torch==2.12.*", "PIP_ARGS=--extra-index-url https://an.index/cpu"):
        assert "constraints" not in line
        assert "--extra-index-url https://an.index/cpu" in line
        assert line.endswith("'torch==2.12.*'")


@needs_make
def test_make_clean_removes_what_git_ignores(stand_ins):
    ignored = (ROOT / ".gitignore").read_text().split()
    (stand_ins / "kerneldna_ops").mkdir()
    for pattern in ignored:
        made = stand_ins / ("kerneldna_ops" if pattern == "*.so" else "") / pattern.replace("*", "made")
        made.mkdir(parents=True, exist_ok=True) if pattern.endswith("/") or "." not in pattern else made.touch()
    run(["make", "clean"], cwd=stand_ins)
    left = {path.name for path in stand_ins.rglob("*")}
    assert left == {"Makefile", "pyproject.toml", "setup.py", "constraints.txt", "csrc", "tests", "kerneldna_ops"}


def test_continuous_integration_runs_what_make_test_leaves_out():
    """As the summary of `make test` says (tests/conftest.py)."""
    assert "make test\nmake test-long\n" in (ROOT / ".ci/run").read_text()


@needs_make
def test_make_help_has_every_target(stand_ins):
    told = run(["make", "help"], cwd=stand_ins)
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^  make ([a-z-]+) ", told, re.MULTILINE)) >= set(phony.split())
