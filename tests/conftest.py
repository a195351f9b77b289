"""What all tests share: backends, dtypes, seeds, poisoned memory, and the count of what was skipped."""

import functools
import importlib
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
import torch

import kerneldna_ops

if "KERNELDNA_TESTED_HOST_KERNELS" in os.environ:
    # A folder with another kerneldna_ops._cuda_host, before all that looks whether there is one.
    kerneldna_ops.__path__.insert(0, os.environ["KERNELDNA_TESTED_HOST_KERNELS"])

import cases
from kerneldna_ops import backends, explain_backends, triton_kernels
from kerneldna_ops.backends import _winners

with pytest.MonkeyPatch.context() as _environment:
    # Triton's kernels, those of its own library included, are interpreted in this process, which is decided when they
    # are defined: before any test imports them. No test has to know but those of tests/triton_kernels.
    _environment.setenv("TRITON_INTERPRET", "1")
    # Triton imports it at the first descriptor, and it wants the variable as it was when Triton was imported.
    importlib.import_module("triton.experimental.gluon")
    for _module in pkgutil.iter_modules(triton_kernels.__path__):
        importlib.import_module(f"{triton_kernels.__name__}.{_module.name}")

# torchvision built with CUDA cannot load its operators beside CPU-only torch, and without these is not even imported.
if torch.version.cuda is None:
    TORCHVISION = torch.library.Library("torchvision", "DEF")
    TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    TORCHVISION.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

FOLDER = Path(__file__).parent
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# name -> (whether it runs on this machine at all, why or why not)
BACKENDS = explain_backends(**cases.build(cases.SMALL[0], torch.float32)._asdict())
# What tests run on unless the command line says otherwise. tests/cuda has a sample for the others: they are slow.
TESTED = [name for name, (runs, _) in BACKENDS.items() if runs and name in backends.AUTOMATIC]


@functools.cache
def takes(backend, dtype):
    """Whether the backend has kernels for the dtype; a test of its own says which have not (test_backends.py)."""
    return explain_backends(**cases.build(cases.SMALL[0], dtype)._asdict())[backend][0]


# The same examples on every run of continuous integration, new ones on every run by hand.
hypothesis.settings.register_profile(
    "kerneldna",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("kerneldna")


def pytest_addoption(parser):
    parser.addoption("--backend", action="append", choices=list(BACKENDS), help="test only this backend (repeatable)")


def pytest_configure(config):
    config.addinivalue_line("markers", "without_backends(*names): the test makes no sense on these backends")
    for name in config.getoption("backend") or ():
        runs, reason = BACKENDS[name]
        if not runs:
            raise pytest.UsageError(f"--backend {name} cannot run here: {reason}")


def tested(config):
    return config.getoption("backend") or TESTED


def pytest_report_header(config):
    return [
        f"backend {name}: {'tested' if name in tested(config) else 'not tested'}, {reason}"
        for name, (_, reason) in BACKENDS.items()
    ]


def pytest_generate_tests(metafunc):
    """A test that takes `backend` runs on every backend of TESTED; one that takes `dtype`, in all four."""
    if "backend" in metafunc.fixturenames:
        without = {name for mark in metafunc.definition.iter_markers("without_backends") for name in mark.args}
        metafunc.parametrize("backend", [name for name in tested(metafunc.config) if name not in without])
    if "dtype" in metafunc.fixturenames:
        metafunc.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def pytest_collection_modifyitems(config, items):
    def has_kernels(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        dtypes = (value for value in params.values() if isinstance(value, torch.dtype))
        return "backend" not in params or all(takes(params["backend"], dtype) for dtype in dtypes)

    config.hook.pytest_deselected(items=[item for item in items if not has_kernels(item)])
    items[:] = filter(has_kernels, items)


def pytest_terminal_summary(terminalreporter):
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    terminalreporter.write_line(f"{reasons.total()} tests skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"  {count} x {reason}")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """A function that sets the number of threads, one at first; it is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread():
    """For a whole module: small work, and the same numbers every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def deterministic_mode():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def poisoned_memory(deterministic_mode):
    """New tensors come full of NaN, those of the C++ library included, so that reading before writing shows."""
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture
def tests_pass_with():
    """A function that runs tests of this folder in a process with more environment variables."""

    def run(environment, *arguments):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        environment = {**os.environ, **environment}
        run = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout[-2000:]

    return run


@pytest.fixture
def winners():
    """A function that sets what the table of measured winners says of the CPU, at first nothing: class -> winner."""
    table = {}

    def set_table(new):
        table.clear()
        table.update(new)
        backends._selection.publish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_winners, "table", lambda device_type: table if device_type == "cpu" else {})
        set_table({})
        yield set_table
    backends._selection.publish()


@pytest.fixture
def ran(monkeypatch):
    """The names of the Python backends that ran, in order, as "name" or "name backward"."""
    names = []

    def spy(name, function, label):
        original = getattr(backends.load(name), function)

        def run(*args):
            names.append(label)
            return original(*args)

        monkeypatch.setattr(backends.load(name), function, run)

    for name in ("composite", "reference"):
        spy(name, "conv", name)
        spy(name, "conv_backward", f"{name} backward")
    return names
