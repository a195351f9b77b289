"""How setup.py calls the compilers: not more at a time than asked for, and alike in every checkout; and what fails."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from setuptools import Distribution

SOURCES = ["csrc/one.cpp", "csrc/two.cu", "csrc/three_avx2.cpp", "csrc/four_avx512.cpp", "csrc/five.cpp"]

# Writes down how it is called; fails where it runs twice at a time.
COMPILER = f"""#!{sys.executable}
import os, sys, time
print(os.environ.get("SAID", ""), end="", file=sys.stderr)
os.mkdir("running")
time.sleep(0.05)
with open("calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
for option in ("-o", "-MF"):
    open(sys.argv[sys.argv.index(option) + 1], "w").close()
os.rmdir("running")
"""


@pytest.fixture
def compiled(setup_py, tmp_path, monkeypatch):
    """Compiles SOURCES in a folder of tmp_path; the calls of the compiler."""
    monkeypatch.setenv("TORCH_NO_COMPILER_WRAPPER", "1")
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)

    def compile_in(name):
        folder = tmp_path / name
        (folder / "csrc").mkdir(parents=True, exist_ok=True)
        for source in SOURCES:
            (folder / source).touch()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("PYTORCH_NVCC", f"{compiler} --nvcc")
        command = setup_py.BuildExtension(Distribution())
        command.compiler = SimpleNamespace(compiler_so_cxx=[str(compiler)], include_dirs=["/usr/include/python"])
        flags = {"cxx": ['-DNAME="a b"'], "nvcc": ["-gencode=arch=compute_80,code=sm_80"]}
        objects = command.compile_with_ninja(SOURCES, "build/temp", ["/opt/include"], flags)
        assert all(os.path.exists(path) for path in objects)
        return (folder / "calls").read_text().splitlines()

    return compile_in


def test_one_job_means_one_compiler_at_a_time(compiled, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "1")
    calls = compiled("checkout")
    assert len(calls) == len(SOURCES)
    assert [call for call in calls if "--nvcc" in call] == [call for call in calls if "two.cu" in call]
    assert [call for call in calls if "-mavx512f" in call] == [call for call in calls if "four_avx512" in call]


def test_a_compiler_cache_knows_the_calls_of_another_checkout(compiled, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "1")
    assert compiled("a_checkout") == compiled("elsewhere/another_checkout")


def test_ccache_is_used_where_it_is_installed(setup_py, tmp_path, monkeypatch):
    (tmp_path / "ccache").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TORCH_NO_COMPILER_WRAPPER", raising=False)
    assert setup_py.cached(["g++", "-O3"]) == ["ccache", "g++", "-O3"]
    assert setup_py.cached(["/usr/bin/ccache", "g++"]) == ["/usr/bin/ccache", "g++"]
    monkeypatch.setenv("TORCH_NO_COMPILER_WRAPPER", "1")
    assert setup_py.cached(["g++"]) == ["g++"]


SERIALISED = "ptxas info    : (C7515) Potential Performance Loss: wgmma.mma_async instructions are serialized"


def test_a_remark_of_serialised_products_fails_the_build(compiled, monkeypatch, capfd):
    monkeypatch.setenv("SAID", f"ptxas info : 0 bytes stack frame\n{SERIALISED} due to x\n")
    monkeypatch.setenv("MAX_JOBS", "1")
    with pytest.raises(SystemExit, match=r"^kerneldna-ops: a source did not compile, see above$"):
        compiled("checkout")
    output = capfd.readouterr().out
    assert "ptxas info : 0 bytes stack frame\n" in output
    sentence = "kerneldna-ops: csrc/two.cu must not have its tensor core products serialised, ptxas says: "
    assert f"{sentence}{SERIALISED} due to x\n" in output
    assert not os.path.exists("build/temp/csrc/two.cu.o")  # or the next build would take it for up to date


def test_what_else_nvcc_says_is_shown(compiled, monkeypatch, capfd):
    monkeypatch.setenv("SAID", "ptxas warning : (C7600) 100% $HOME \\n 'spills'\n")
    monkeypatch.setenv("MAX_JOBS", "1")
    compiled("checkout")
    assert "ptxas warning : (C7600) 100% $HOME \\n 'spills'\n" in capfd.readouterr().out


@pytest.mark.parametrize(("x86_64", "kernels"), [(True, ["avx2", "avx512", "portable"]), (False, ["portable"])])
def test_vector_code_is_compiled_for_the_processors_that_have_it(setup_py, monkeypatch, x86_64, kernels):
    monkeypatch.setenv("KERNELDNA_NO_CUDA", "1")
    monkeypatch.setattr(setup_py, "IS_X86_64", x86_64)
    library = setup_py.extension()
    stems = [Path(source).stem for source in library.sources]
    assert [stem.removeprefix("kernels_") for stem in stems if stem.startswith("kernels_")] == kernels
    assert not any(flag.startswith("-m") for flag in library.extra_compile_args["cxx"])
