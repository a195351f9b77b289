"""What all tests share: backends, dtypes, seeds, poisoned memory, and the count of what was skipped."""

import importlib
import importlib.metadata
import importlib.util
import itertools
import os
import pkgutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import host_execution  # noqa: F401  (registers the backend cuda_host)
import hypothesis
import pytest
import torch

from kerneldna_ops import backends, triton_kernels
from kerneldna_ops.backends import _winners
from support import devices

# float32 means float32: a test that wants TF32 says so.
torch.backends.cudnn.allow_tf32 = False
# cuBLAS gives the same bits every time only with a workspace of its own for each stream, named before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# torchvision built with CUDA cannot load its operators beside CPU-only torch, and without these is not even imported.
if torch.version.cuda is None:
    TORCHVISION = torch.library.Library("torchvision", "DEF")
    TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    TORCHVISION.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

FOLDER = Path(__file__).parent

# The same examples on every run of continuous integration, new ones on every run by hand.
hypothesis.settings.register_profile(
    "kerneldna",
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("kerneldna")


def pytest_addoption(parser):
    group = parser.getgroup("kerneldna")
    group.addoption(
        "--device",
        action="append",
        choices=devices.NAMES,
        help="test only this device (repeatable); the CPU is always one, and an NVIDIA card where there is one",
    )
    group.addoption("--backend", action="append", choices=backends.NAMES, help="test only this backend (repeatable)")
    group.addoption(
        "--without-long",
        action="store_true",
        help="leave out what takes minutes, such as compiling the whole library once more; `-m long` runs only that",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "without_backends(*names): the test makes no sense on these backends")
    config.addinivalue_line("markers", "on(*devices): the test makes sense on these devices only")
    config.addinivalue_line("markers", "tf32: convolutions in float32 may take TF32")
    config.addinivalue_line("markers", "sanitizer_sample: what `make sanitize-gpu` runs")
    config.addinivalue_line("markers", "long: compiles the library, or runs many of its tests, once more")
    config.stash[NOT_RUN] = Counter()
    names = asked_devices(config)
    if "stand-in" in names and len(names) > 1:
        raise pytest.UsageError("--device stand-in needs a process of its own")
    if "cuda" not in names:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # commands take a card where they see one
    elif not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda cannot run here: torch.cuda.is_available() is False")
    names = tested_devices(config)
    define_triton_kernels(interpreted="cuda" not in names, always="stand-in" in names)
    for backend in config.getoption("backend") or ():
        reasons = [f"on {name}, {devices.explained(name)[backend][1]}" for name in names]
        if not any(devices.explained(name)[backend][0] for name in names):
            raise pytest.UsageError(f"--backend {backend} cannot run here: {'; '.join(reasons)}")


def define_triton_kernels(interpreted, always):
    """Whether Triton's kernels, those of its own library included, are compiled or interpreted in this process.

    That is decided when they are defined: before any test imports them. No test has to know but those of
    tests/triton_kernels.

    always: the backend takes tensors of the CPU in every test, not only in those that say so.
    """
    if not interpreted:
        os.environ.pop("TRITON_INTERPRET", None)
        return
    if importlib.util.find_spec("triton") is None:
        raise pytest.UsageError("the tests run Triton's kernels in its interpreter: `pip install triton`")
    if always:
        os.environ["TRITON_INTERPRET"] = "1"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        mend_interpreter()
        # Triton imports it at the first descriptor, and it wants the variable as it was when Triton was imported.
        importlib.import_module("triton.experimental.gluon")
        for module in pkgutil.iter_modules(triton_kernels.__path__):
            importlib.import_module(f"{triton_kernels.__name__}.{module.name}")


def mend_interpreter():
    """Triton 3.6 makes a number of an array of one element in a way that NumPy 2.4 and newer refuse; 3.7 does not."""
    if importlib.metadata.version("triton").startswith("3.6."):
        interpreter = importlib.import_module("triton.runtime.interpreter")
        patch = interpreter._patch_lang_tensor

        def patch_and_mend(tensor, scope):
            patch(tensor, scope)
            tensor.__index__ = lambda self: self.handle.data.item()

        interpreter._patch_lang_tensor = patch_and_mend


def asked_devices(config):
    return config.getoption("device") or devices.present()


def tested_devices(config):
    """In this process: what runs on the CPU gets one without a card, where Triton's kernels are interpreted."""
    asked = asked_devices(config)
    return ["cuda"] if "cuda" in asked else asked


def tested_backends(config, device):
    asked = config.getoption("backend")
    if asked is None:
        return devices.usual_backends(device)
    return [name for name in dict.fromkeys(asked) if devices.explained(device)[name][0]]


def pytest_report_header(config):
    names = tested_devices(config)
    lines = [] if "cuda" in names else ["device cuda: not tested, it was not asked for or there is none"]
    if names != asked_devices(config):
        lines.append("device cpu: tested by test_cpu.py in a process of its own")
    for device in names:
        where = f" ({torch.cuda.get_device_name(0)})" if device == "cuda" else ""
        lines.append(f"device {device}{where}: tested")
        for backend, (_, reason) in devices.explained(device).items():
            tested = backend in tested_backends(config, device)
            without = [name for name in precisions(device) if tested and not tested_in(device, backend, name)]
            without = f", but not in {' and '.join(without)}" if without else ""
            lines.append(f"  backend {backend}: {'tested' if tested else 'not tested'}{without}, {reason}")
    return lines


def named(dtype):
    return str(dtype).removeprefix("torch.")


AXES = ("device", "backend", "dtype")


def pytest_generate_tests(metafunc):
    """A test that takes `device` runs on all tested devices; one that takes `backend`, on every backend that runs
    there; one that takes `dtype`, in all four for which there are kernels, on an NVIDIA card in TF32 as well.

    What takes no device runs on the CPU.
    """
    of_its_own = str([mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")])
    axes = [axis for axis in AXES if axis in metafunc.fixturenames and f"'{axis}'" not in of_its_own]
    if not axes:
        return
    given = {
        name: [mark.args for mark in metafunc.definition.iter_markers(name)] for name in ("without_backends", "on")
    }
    without, on = (set(itertools.chain(*args)) for args in given.values())
    tested = tested_devices(metafunc.config) if "device" in axes else ["cpu"]
    values = []
    for device in tested:
        if on and device not in on:
            continue
        names = [name for name in tested_backends(metafunc.config, device) if name not in without]
        choices = {"device": [device], "backend": names, "dtype": precisions(device)}
        for chosen in itertools.product(*(choices[axis] for axis in axes)):
            chosen = dict(zip(axes, chosen, strict=True))
            if "backend" not in chosen or tested_in(device, chosen["backend"], chosen.get("dtype")):
                values.append(parameters(**chosen))
    if not values:
        reason = f"needs {' or '.join(f'--device {name}' for name in devices.NAMES if name in (on or tested))}"
        if "backend" in axes:
            reason += " and a backend that has its kernels there"
        values = [pytest.param(*[None] * len(axes), id="nowhere", marks=pytest.mark.skip(reason=reason))]
    metafunc.parametrize(axes, values)


def precisions(device):
    return [*map(named, devices.DTYPES), *(["tf32"] if device == "cuda" else [])]


def takes(device, backend, precision):
    """Whether the backend has kernels for it; a test of its own says for which it has not (test_backends.py)."""
    tf32 = precision == "tf32"
    return devices.explained(device, torch.float32 if tf32 else getattr(torch, precision), tf32)[backend][0]


# It is PyTorch's operators alone: how it treats the precision of the truth, and one that it rounds to, says all.
OF_THE_REFERENCE = (None, "float64", "bfloat16")


def tested_in(device, backend, precision):
    """precision: None for a test that has its own."""
    return takes(device, backend, precision or "float16") and (backend != "reference" or precision in OF_THE_REFERENCE)


def parameters(**chosen):
    """Of one test, by the names that its id shows."""
    values = dict(chosen)
    marks = [pytest.mark.tf32] if values.get("dtype") == "tf32" else []
    if "device" in chosen:
        values["device"] = devices.place(chosen["device"])
    if "dtype" in chosen:
        values["dtype"] = torch.float32 if marks else getattr(torch, chosen["dtype"])
    return pytest.param(*values.values(), id="-".join(chosen.values()), marks=marks)


# Why tests were not run -> how many, of those that are not counted as skipped.
NOT_RUN = pytest.StashKey[Counter]()


# What only a card can show, before what it shares with the CPU: a run may have to end before all is done.
FIRST_ON_A_CARD = ("test_on_a_card.py", "op/test_forms.py")
# What has the longest tests: one that a process came to last would leave the others without work.
FIRST_ON_THE_CPU = (
    "triton_kernels/test_public_op.py",
    "backends/test_instruction_sets.py",
    "test_stand_in.py",
    "triton_kernels/test_compile_table.py",
    "benchmarks/test_gpu_check.py",
    "op/test_poison.py",
)

# The fixtures that compile the whole library. What takes one is marked, whether it says so itself or not.
BUILDS = {"wheel", "sanitized"}


def parameters_of(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def pytest_collection_modifyitems(config, items):
    names, elsewhere = tested_devices(config), "cpu" in asked_devices(config)
    on_the_cpu = "on the CPU, " + ("by test_cpu.py in a process of its own" if elsewhere else "by --device cpu")
    for item in items:
        if BUILDS & set(item.fixturenames):
            item.add_marker("long")

    def reason(item):
        takes_a_device = isinstance(parameters_of(item).get("device", "cpu"), torch.device | None)
        if "cpu" not in names and not takes_a_device:
            return on_the_cpu
        if config.getoption("without_long") and item.get_closest_marker("long"):
            return "takes minutes by itself: by `make test-long`, which .ci/run does too"
        return None

    reasons = [(item, reason(item)) for item in items]
    config.stash[NOT_RUN].update(why for _, why in reasons if why)
    config.hook.pytest_deselected(items=[item for item, why in reasons if why])
    items[:] = [item for item, why in reasons if not why]
    first = FIRST_ON_A_CARD if "cuda" in names else FIRST_ON_THE_CPU
    items.sort(key=lambda item: str(item.path.relative_to(FOLDER)) not in first)


# What the extra "test" brings (pyproject.toml) beside what every test needs.
OPTIONAL = {"matplotlib", "onnx", "onnxruntime", "onnxscript", "pybind11", "sklearn", "tensorboard", "timm"}
OPTIONAL |= {"torchvision", "tqdm"}


@contextmanager
def skipped_without_other_packages():
    """What goes with another package is skipped where that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        cause = error
        while cause is not None:
            name = (getattr(cause, "name", None) or "").split(".")[0]
            if name in OPTIONAL and importlib.util.find_spec(name) is None:
                pytest.skip(f"needs {name}, which is not installed")
            cause = cause.__cause__ or cause.__context__
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with skipped_without_other_packages():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with skipped_without_other_packages():
        return (yield)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist; every worker has collected the same
        session.config.workeroutput["not_run"] = dict(session.config.stash[NOT_RUN])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    node.config.stash[NOT_RUN] = Counter(getattr(node, "workeroutput", {}).get("not_run", {}))


def pytest_terminal_summary(terminalreporter, config):
    skipped = terminalreporter.stats.get("skipped", ())
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.write_line(f"{reasons.total()} tests skipped")
    for reason, count in (reasons + config.stash[NOT_RUN]).most_common():
        terminalreporter.write_line(f"  {count} x {reason}")
    for device in tested_devices(config):
        for backend in devices.OF_A_CARD.get(device, ()):
            runs, reason = devices.explained(device)[backend]
            if not runs:
                terminalreporter.write_line(f"backend {backend} was not tested on {device}: {reason}", red=True)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def allow_tf32(request):
    """For a test that is marked tf32."""
    with devices.tf32(request.node.get_closest_marker("tf32") is not None):
        yield


@pytest.fixture
def without_cudnn(monkeypatch):
    """Some of its algorithms transform a map before they multiply: a NaN spreads, and whole numbers are rounded."""
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)


@pytest.fixture(autouse=True)
def no_plans():
    """What other tests had backends do is forgotten."""
    backends._plans.forget()


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
        original = getattr(backends.module_of(name), function)

        def run(*args):
            names.append(label)
            return original(*args)

        monkeypatch.setattr(backends.module_of(name), function, run)

    for name in ("composite", "reference"):
        spy(name, "conv", name)
        spy(name, "conv_backward", f"{name} backward")
    return names
