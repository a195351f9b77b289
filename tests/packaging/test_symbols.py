"""What the built library takes from outside, and that code for newer processors stays in the files meant for it."""

import platform
import re
import shutil
from pathlib import Path

import pytest
import torch

from support.commands import run

pytestmark = pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, from binutils")
TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"
only_on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 and AVX-512 are x86's")


def undefined(library):
    """(kind, demangled name) of each symbol that the library expects to find; kind "w" may be absent."""
    rows = run(["nm", "-D", "-C", "--undefined-only", library]).splitlines()
    return [tuple(row.split(maxsplit=1)) for row in rows]


def test_takes_nothing_from_torch_but_the_stable_abi(library):
    unstable = [name for _, name in undefined(library) if re.search(r"\b(c10|at|torch|caffe2)::", name)]
    assert unstable == []
    assert any(name.startswith("torch_call_dispatcher") for _, name in undefined(library))


def missing_where_it_is_needed(library):
    """Symbols that may be absent, but for those of Python and of compilers, and are not in a library that this one
    needs: a weak reference alone never makes the linker keep one, so they would be found by luck."""
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:torch|c10).*)\]", run(["readelf", "-d", library]))
    assert needed
    defined = {row.split()[-1].split("@")[0] for name in needed for row in dynamic_symbols(TORCH_LIBRARIES / name)}
    weak = {name for kind, name in undefined(library) if kind == "w"}
    return {name for name in weak - defined if not re.match(r"_?Py|_ITM_|__cxa_finalize|__gmon_start__", name)}


def dynamic_symbols(library):
    return run(["nm", "-D", "--defined-only", library]).splitlines()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf, from binutils")
def test_links_what_it_takes_from_torch(library):
    assert missing_where_it_is_needed(library) == set()


@only_on_x86
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="versions of symbols are glibc's")
def test_needs_no_newer_glibc_than_torch(library):
    """2.28, as the tag of torch's own wheels says."""
    listed = run(["objdump", "-T", library])
    versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_(\d+\.\d+(?:\.\d+)?)", listed)}
    assert versions
    assert max(versions) <= (2, 28)


def test_can_do_without_python(library):
    of_python = [(kind, name) for kind, name in undefined(library) if re.match(r"_?Py", name)]
    assert of_python, "the library defines a Python module, so it must name Python's functions"
    assert all(kind == "w" for kind, _ in of_python), of_python


def test_shows_python_its_module(library):
    assert " T PyInit__C" in run(["nm", "-D", "--defined-only", library])


@only_on_x86
def test_sources_for_a_vector_unit_are_compiled_apart(objects, unpacked):
    for kind in ("avx2", "avx512"):
        sources = sorted(path.name for path in (unpacked / "csrc").rglob(f"*_{kind}.cpp"))
        assert sorted(path.stem for path in objects[kind]) == sources


@only_on_x86
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump, from binutils")
def test_baseline_code_runs_on_any_x86(objects):
    """%ymm and %zmm registers came with AVX and AVX-512."""
    for path in objects["baseline"]:
        code = run(["objdump", "-d", "--no-show-raw-insn", path])
        assert not re.search(r"%[yz]mm", code), f"{path.name} is compiled for the baseline"


@only_on_x86
def test_no_function_is_compiled_twice_for_different_processors(objects):
    """Of an inline function or template in several objects the linker keeps one, any one: were it the AVX-512 one,
    baseline code would call it on every processor."""

    def shared(paths):
        rows = run(["nm", "-C", "--defined-only", *paths]).splitlines() if paths else []
        return {
            name for _, kind, name in (row.split(maxsplit=2) for row in rows if row.count(" ") >= 2) if kind in "WV"
        }

    weak = {kind: shared(paths) for kind, paths in objects.items()}
    assert all(weak.values()), "nm's listing was not understood"
    assert weak["baseline"] & weak["avx2"] == set()
    assert weak["baseline"] & weak["avx512"] == set()
    assert weak["avx2"] & weak["avx512"] == set()
