"""Which CUDA toolkit setup.py builds with, and for which GPUs: stand-in folders and a stand-in nvcc."""

import platform
import sys

import pytest

TARGET = f"targets/{'sbsa' if platform.machine() == 'aarch64' else platform.machine()}-linux"
LAYOUTS = {
    "NVIDIA": ("include", "lib64"),
    "conda": (f"{TARGET}/include", f"{TARGET}/lib"),
    "conda with links": (f"{TARGET}/include", "lib"),
    "pip": ("include", "lib"),
}
# Knows the architectures in KNOWN, as the nvcc of this version does.
NVCC = f"""#!{sys.executable}
import os, re, sys
if "--version" in sys.argv:
    print("Cuda compilation tools, release 12.6, V12.6.85")
for arch in re.findall(r"arch=compute_(\\w+)", " ".join(sys.argv)):
    if arch not in os.environ["KNOWN"].split():
        sys.exit(f"nvcc fatal   : Unsupported gpu architecture 'compute_{{arch}}'")
"""
OLD = "80 86 87 89 90 90a"
NEW = f"75 {OLD} 100 100a 103 110 120 121"


def lay_out(home, include, library):
    for path in ("bin/nvcc", f"{include}/cuda_runtime.h", f"{library}/libcudart_static.a"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(NVCC)
    (home / "bin/nvcc").chmod(0o755)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "PYTORCH_NVCC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KERNELDNA_NO_CUDA", "KERNELDNA_FORCE_CUDA"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("KNOWN", NEW)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_toolkit_is_found_however_it_is_laid_out(setup_py, tmp_path, monkeypatch, layout):
    include, library = LAYOUTS[layout]
    lay_out(tmp_path, include, library)
    found = (tmp_path, tmp_path / include, tmp_path / library)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert setup_py.find_toolkit() == found
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert setup_py.find_toolkit() == found


def test_a_link_to_nvcc_leads_to_its_toolkit(setup_py, tmp_path, monkeypatch):
    lay_out(tmp_path / "toolkit", *LAYOUTS["NVIDIA"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(tmp_path / "toolkit/bin/nvcc")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert setup_py.find_toolkit().home == tmp_path / "toolkit"


def test_the_wheels_of_nvidia_are_found(setup_py, tmp_path, monkeypatch):
    lay_out(tmp_path / "nvidia/cu13", *LAYOUTS["pip"])
    (tmp_path / "nvidia/cudnn/lib").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert setup_py.find_toolkit().home == tmp_path / "nvidia/cu13"


@pytest.mark.parametrize("part", ["bin/nvcc", "include/cuda_runtime.h", "lib64/libcudart_static.a"])
def test_part_of_a_toolkit_is_none(setup_py, tmp_path, part):
    lay_out(tmp_path, *LAYOUTS["NVIDIA"])
    (tmp_path / part).unlink()
    assert setup_py.toolkit_in(tmp_path) is None


@pytest.fixture
def built(setup_py, tmp_path, monkeypatch, capsys):
    """What setup.py prints about CUDA, and the architectures that nvcc is told to compile for: sm_80 or compute_80."""
    lay_out(tmp_path, *LAYOUTS["NVIDIA"])
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("KERNELDNA_FORCE_CUDA", "1")

    def build(archs=None):
        if archs is not None:
            monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", archs)
        arguments = setup_py.extension().extra_compile_args
        codes = [flag.split(",code=")[1] for flag in arguments["nvcc"] if flag.startswith("-gencode=")]
        lines = [line for line in capsys.readouterr().out.splitlines() if "CUDA" in line or "not for" in line]
        names = lines[-1].split(" for ")[1]
        assert f'-DKERNELDNA_CUDA_ARCHS="{names}"' in arguments["cxx"]
        return lines, codes

    return build


def configured(tmp_path, names):
    return f"kerneldna-ops: CUDA 12.6 from {tmp_path} for {names}"


def test_by_default_every_gpu_that_the_kernels_run_on(built, tmp_path):
    lines, codes = built()
    assert lines == [configured(tmp_path, "8.0 8.6 8.9 9.0a 10.0+PTX 12.0")]
    assert codes == ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "compute_100", "sm_120"]


def test_what_an_older_nvcc_lacks_of_the_default_is_left_out(built, tmp_path, monkeypatch):
    monkeypatch.setenv("KNOWN", OLD)
    lines, codes = built()
    why = "which nvcc 12.6 does not take: nvcc fatal   : Unsupported gpu architecture 'compute_1"
    assert lines == [
        f"kerneldna-ops: not for 10.0+PTX, {why}00'",
        f"kerneldna-ops: not for 12.0, {why}20'",
        configured(tmp_path, "8.0 8.6 8.9 9.0a"),
    ]
    assert codes == ["sm_80", "sm_86", "sm_89", "sm_90a"]


def test_what_it_lacks_of_the_users_list_is_refused(built, monkeypatch):
    monkeypatch.setenv("KNOWN", OLD)
    sentence = (
        r"^TORCH_CUDA_ARCH_LIST has 10\.0, which nvcc 12\.6 does not take: nvcc fatal   : Unsupported gpu architecture"
        r" 'compute_100'$"
    )
    with pytest.raises(SystemExit, match=sentence):
        built("8.0;10.0")


def test_an_nvcc_that_takes_nothing(built, monkeypatch):
    monkeypatch.setenv("KNOWN", "")
    with pytest.raises(SystemExit, match=r"^nvcc 12\.6 takes none of the architectures 8\.0;.*: nvcc fatal   : "):
        built()


def test_the_list_of_nvidias_images_builds_without_the_gpus_that_are_too_old(built, tmp_path):
    lines, codes = built("7.5 8.0 8.6 9.0 10.0 12.0+PTX")
    assert lines == [
        "kerneldna-ops: not for 7.5, because the kernels need compute capability 8.0",
        configured(tmp_path, "8.0 8.6 9.0 10.0 12.0+PTX"),
    ]
    assert codes == ["sm_80", "sm_86", "sm_90a", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize("archs", ["7.5", "Volta;Turing"])
def test_nothing_but_gpus_that_are_too_old(built, archs):
    sentence = rf"^TORCH_CUDA_ARCH_LIST must have 8\.0 or newer, which the kernels need, got '{archs}'$"
    with pytest.raises(SystemExit, match=sentence):
        built(archs)


def test_names_of_architectures_are_pytorchs(built):
    assert built("Turing;Ampere")[1] == ["sm_80", "sm_86", "compute_86"]
    assert built("Hopper")[1] == ["sm_90a", "compute_90"]


def test_nothing_is_compiled_twice(built):
    assert built("8.0;9.0;9.0a;8.0+PTX")[1] == ["sm_80", "sm_90a", "compute_80"]


@pytest.mark.parametrize("archs", ["Fermi", "8.0;", "80", "9.0b", "8.0+ptx"])
def test_architectures_that_are_none(built, archs):
    sentence = r"^TORCH_CUDA_ARCH_LIST must be numbers like 8\.0;9\.0a;10\.0\+PTX, or one of Volta, .*, got '.*' in '"
    with pytest.raises(SystemExit, match=sentence):
        built(archs)


def test_a_build_that_was_not_asked_for_says_how_to_leave_it_out(built, setup_py, monkeypatch):
    sentence = "kerneldna-ops: CUDA kernels take minutes to compile; KERNELDNA_NO_CUDA=1 leaves them out"
    assert sentence not in built()[0]
    monkeypatch.setenv("KERNELDNA_FORCE_CUDA", "0")
    monkeypatch.setattr(setup_py.torch.version, "cuda", "13.0")
    assert built()[0][0] == sentence


def test_a_wheel_with_cuda_kernels_has_a_label_in_its_version(built, setup_py, monkeypatch):
    assert setup_py.label(setup_py.extension()) == "+cu126"
    monkeypatch.setenv("KERNELDNA_FORCE_CUDA", "0")
    monkeypatch.setenv("KERNELDNA_NO_CUDA", "1")
    assert setup_py.label(setup_py.extension()) == ""


# CPU-only builds say why.


def said(setup_py, capsys):
    setup_py.extension()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "kerneldna-ops: CUDA" in line]
    return line.removeprefix("kerneldna-ops: CUDA not built (CPU only): ")


def test_a_cuda_torch_beside_no_toolkit(setup_py, monkeypatch, capsys):
    monkeypatch.setattr(setup_py, "find_toolkit", lambda: None)
    monkeypatch.setattr(setup_py.torch.version, "cuda", "13.0")
    line = said(setup_py, capsys)
    assert line.startswith("this torch is for CUDA 13.0, but there is no CUDA toolkit (bin/nvcc, cuda_runtime.h and ")
    assert line.endswith("or set CUDA_HOME, and build again")


def test_a_cpu_only_torch(setup_py, monkeypatch, capsys):
    monkeypatch.setattr(setup_py.torch.version, "cuda", None)
    assert said(setup_py, capsys) == "so is this torch; KERNELDNA_FORCE_CUDA=1 builds CUDA kernels all the same"


def test_cuda_that_is_not_wanted(setup_py, monkeypatch, capsys):
    monkeypatch.setenv("KERNELDNA_NO_CUDA", "1")
    assert said(setup_py, capsys) == "KERNELDNA_NO_CUDA is set"
    monkeypatch.setenv("KERNELDNA_FORCE_CUDA", "1")
    with pytest.raises(
        SystemExit, match=r"^KERNELDNA_NO_CUDA and KERNELDNA_FORCE_CUDA exclude each other, both are set$"
    ):
        setup_py.extension()


def test_cuda_that_is_wanted_and_absent(setup_py, monkeypatch):
    monkeypatch.setenv("KERNELDNA_FORCE_CUDA", "1")
    monkeypatch.setattr(setup_py, "find_toolkit", lambda: None)
    with pytest.raises(
        SystemExit, match=r"^KERNELDNA_FORCE_CUDA is set, but there is no CUDA toolkit \(.*\): install "
    ):
        setup_py.extension()
