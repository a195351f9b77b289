"""A source archive, the wheel built from it, and a clean environment with that wheel, each made once."""

import importlib.util
import os
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from support.commands import ROOT, run

BUILD_SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


@pytest.fixture(scope="session")
def setup_py():
    specification = importlib.util.spec_from_file_location("setup_of_the_project", ROOT / "setup.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


# What another Python's build leaves in a checkout; no archive and no wheel may have it.
LEFT_OVER = "kerneldna_ops/_left_over.cpython-311-x86_64-linux-gnu.so"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy, so that nothing left over from other builds gets in, and nothing is left in the true one."""
    copy = tmp_path_factory.mktemp("source in spaces") / "copy"
    left_out = (
        ".git",
        ".venv",
        "build",
        "dist",
        "runs",
        "*.egg-info",
        "*.so",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
    )
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*left_out))
    (copy / LEFT_OVER).write_text("not a library")
    return copy


@pytest.fixture(scope="session")
def sdist(checkout, tmp_path_factory):
    archives = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-c", BUILD_SDIST, archives], cwd=checkout)
    (archive,) = archives.iterdir()
    return archive


@pytest.fixture(scope="session")
def unpacked(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked in spaces")
    with tarfile.open(sdist) as archive:
        # Python below 3.10.12 and 3.11.4 has no filters.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = folder.iterdir()
    return source


@pytest.fixture(scope="session")
def wheel(unpacked, tmp_path_factory):
    wheels = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-build-isolation", "--no-deps"]
    # CPU-only on every machine; `make cuda-check` is for the rest, and takes minutes.
    cpu_only = os.environ | {"KERNELDNA_NO_CUDA": "1", "KERNELDNA_FORCE_CUDA": "0"}
    run([*pip, "--no-index", "-w", wheels, unpacked], env=cpu_only)
    (file,) = wheels.iterdir()
    return file


@pytest.fixture(scope="session")
def objects(wheel, unpacked):
    """The object files that went into the wheel, by the code they hold: "baseline", "avx2", "avx512"."""
    (folder,) = (unpacked / "build").glob("temp.*")
    kinds = {"baseline": sorted((folder / "csrc").rglob("*.o"))}
    return kinds | {name: sorted((folder / name).rglob("*.o")) for name in ("avx2", "avx512")}


@pytest.fixture(scope="session")
def clean_python(wheel, tmp_path_factory):
    """The interpreter of an environment that has this wheel. torch and what it needs come from here: installing them
    again would take minutes. Packages that are editable here are not seen, for their .pth files are not read."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel])
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "torch_from_outside.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return python


@pytest.fixture(scope="session")
def library(clean_python):
    """The op library as the wheel installed it."""
    (found,) = clean_python.parents[1].glob("lib/python*/site-packages/kerneldna_ops/_C*.so")
    return found
