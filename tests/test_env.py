"""The environment report, what is said about the build, and an installation that is broken."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kerneldna_ops
from kerneldna_ops import backends, env

PACKAGE = Path(kerneldna_ops.__file__).parent


def run_python(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )


def test_names_versions_build_devices_and_backends():
    found = env.environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["kerneldna_ops"] == kerneldna_ops.__version__
    assert found["build"] == kerneldna_ops.build_info()
    assert found["build"]["cpu_vector"] in ("avx512", "avx2", "portable")
    assert len(found["devices"]) == 1 + torch.cuda.device_count()
    for device in found["devices"]:
        assert set(found["backends"][device]) == set(backends.NAMES)
        assert found["backends"][device]["composite"] == (True, "runs anywhere")


def test_no_backend_is_refused_for_the_call_that_it_is_asked_about():
    """But for the device, and what is not installed."""
    refusals = [reason for runs, reason in env.environment()["backends"]["cpu"].values() if not runs]
    assert not any(re.search("channels|filters|float|TF32|tap", reason) for reason in refusals), refusals


def test_the_report_has_it_all(monkeypatch):
    monkeypatch.setattr(backends.module_of("reference"), "can_run", lambda *args: (False, "it is out of order"))
    lines = env.report().splitlines()
    assert f"torch: {torch.__version__}" in lines
    assert "  composite: yes, runs anywhere" in lines
    assert "  reference: no, it is out of order" in lines


def test_a_device_that_pytorch_cannot_use_is_reported(monkeypatch):
    count = torch.cuda.device_count()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count + 1)
    monkeypatch.setattr(env, "_gpu", lambda index: "a GPU")
    at = (lines := env.report().splitlines()).index(f"cuda:{count}: a GPU")
    assert all(re.match(r"  \w+: no, PyTorch cannot use the device \(.+\)$", line) for line in lines[at + 1 :])
    assert len(lines[at + 1 :]) == len(backends.NAMES)


def test_the_commit_is_that_of_the_package(monkeypatch, tmp_path):
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", env.commit() or "0000000")  # None in an unpacked archive
    monkeypatch.setattr(kerneldna_ops, "__file__", str(tmp_path / "__init__.py"))
    assert env.commit() is None
    assert not any(line.startswith("commit") for line in env.report().splitlines())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "__init__.py").touch()
    assert env.commit() is None  # git does not know the file: installed inside another checkout


def test_a_command_that_is_missing_fails_or_prints_nothing_is_none():
    commands = (["no-such-command"], [sys.executable, "-c", "exit(1)"], [sys.executable, "-c", ""])
    assert [env._output(*command) for command in commands] == [None] * 3
    assert env._output(sys.executable, "-c", "print(580.1)") == "580.1"


def test_a_missing_triton_is_said(monkeypatch):
    monkeypatch.setattr(env, "_version", lambda package: None)
    assert "triton: not installed" in env.report().splitlines()


def test_runs_as_a_module():
    done = run_python("-m", "kerneldna_ops.env", KERNELDNA_BACKEND="composite")
    assert done.returncode == 0, done.stderr
    assert "KERNELDNA_BACKEND: composite" in done.stdout.splitlines()


@pytest.fixture
def copy(tmp_path):
    """The package, away from its installation and without its library."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "nn")
    return Path(shutil.copytree(PACKAGE, tmp_path / "kerneldna_ops", ignore=ignored))


IMPORT = """
import sys
# An editable installation finds the library wherever the package is.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in finder.__module__]
sys.path.insert(0, {!r})
import kerneldna_ops
"""


def import_error(copy):
    done = run_python("-c", IMPORT.format(str(copy.parent)))
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


ADVICE = r"Run `pip install --no-build-isolation \.` in its source tree; torch must be 2\.11 or newer\.$"


def test_a_library_that_was_not_built_is_one_sentence(copy):
    problem = r"its C\+\+ library was not built\. "
    assert re.match("ImportError: kerneldna_ops cannot be used: " + problem + ADVICE, import_error(copy))


def test_a_library_that_does_not_load_is_one_sentence(copy):
    (copy / "_C.abi3.so").write_bytes(b"not a library")
    problem = rf"its C\+\+ library does not load with torch {re.escape(torch.__version__)} \(.*_C\.abi3\.so: .*\)\. "
    assert re.match("ImportError: kerneldna_ops cannot be used: " + problem + ADVICE, import_error(copy))


IMPORTED = """
import sys, torch
before = set(sys.modules)
import kerneldna_ops
print(*{name.split(".")[0] for name in set(sys.modules) - before})
print(*sorted(name for name in sys.modules if name.startswith("kerneldna_ops.")))
kerneldna_ops.nn.SqueezeExcite
"""


def test_importing_needs_torch_alone_and_leaves_the_layers_for_later():
    done = run_python("-c", IMPORTED)
    assert done.returncode == 0, done.stderr
    others, own = (line.split() for line in done.stdout.splitlines())
    assert {name for name in others if "editable" not in name} <= {"kerneldna_ops", *sys.stdlib_module_names}
    later = {f"kerneldna_ops.{name}" for name in ("nn", "models", "measure.networks", "measure.memory", "env")}
    assert not later & set(own)


def test_an_unknown_attribute():
    with pytest.raises(AttributeError, match=r"^module 'kerneldna_ops' has no attribute 'conv3d'$"):
        _ = kerneldna_ops.conv3d
