"""Which backend answers: the automatic choice, the explicit one, its scope, and the reasons."""

import logging
import os
import subprocess
import sys
import threading
import weakref

import pytest
import torch

import kerneldna_ops
from kerneldna_ops import backends, compatible_backends, explain_backends, use_backend
from kerneldna_ops.backends._winners import Winner
from kerneldna_ops.call import Call
from kerneldna_ops.functional import conv2d
from support.cases import build, named

pytestmark = pytest.mark.usefixtures("threads", "winners")

CALL = build(named("kernel_3x3_padding_1x1"))._asdict()
conv = torch.ops.kerneldna.conv


@pytest.fixture
def refused(monkeypatch):
    """A backend that exists and cannot run."""
    monkeypatch.setattr(backends.module_of("reference"), "can_run", lambda *args: (False, "it is out of order"))


@pytest.fixture
def in_python():
    """The automatic choice is Python's too, as it is while another thread has an explicit one."""
    backends._selection.hold()
    yield
    backends._selection.release()


def test_every_backend_has_a_reason():
    for name, (runs, reason) in explain_backends(**CALL).items():
        assert backends.module_of(name).can_run(Call(**CALL)) == (runs, reason)
        assert reason


def test_compatible_backends_are_those_without_a_reason_against(refused):
    explained = explain_backends(**CALL)
    assert explained["reference"] == (False, "it is out of order")
    assert compatible_backends(**CALL) == [name for name, (runs, _) in explained.items() if runs]
    assert "reference" not in compatible_backends(**CALL)
    automatic = [name for name in compatible_backends(**CALL) if name in backends.AUTOMATIC]
    assert automatic[-1] == "composite"


def test_explaining_checks_the_arguments():
    with pytest.raises(ValueError, match=r"^conv2d: stride must be at least 1"):
        explain_backends(**CALL | {"stride": 0})


@pytest.mark.parametrize("name", ["composite", "reference"])
def test_the_explicit_choice_runs(ran, name):
    conv2d(**CALL, backend=name)
    with use_backend(name):
        conv(*CALL.values())
    assert ran == [name, name]


def test_the_innermost_choice_counts(ran):
    with use_backend("composite"):
        with use_backend("reference"):
            conv2d(**CALL)
            conv2d(**CALL, backend="composite")
            conv2d(**CALL)
        conv2d(**CALL)
    assert ran == ["reference", "composite", "reference", "composite"]
    assert backends.chosen_backend() is None


def test_none_returns_to_the_automatic_choice(monkeypatch, ran, in_python):
    monkeypatch.setattr(backends, "AUTOMATIC", ("composite", "reference"))
    with use_backend("reference"), use_backend(None):
        conv2d(**CALL)
    assert ran == ["composite"]


def test_the_automatic_choice_is_the_first_backend_that_can_run(monkeypatch, ran, refused, in_python):
    monkeypatch.setattr(backends, "AUTOMATIC", ("reference", "composite"))
    conv2d(**CALL)
    assert ran == ["composite"]


def test_a_choice_ends_with_an_exception():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backends.chosen_backend() is None
    assert backends._selection._holders == 0


def test_the_backward_runs_where_the_forward_ran(ran):
    input = CALL["input"].clone().requires_grad_()
    output = conv2d(**CALL | {"input": input}, backend="reference")
    with use_backend("composite"):
        output.sum().backward()
    assert ran == ["reference", "reference backward"]


def test_the_double_backward_runs_where_the_forward_ran(ran):
    input, weight = (CALL[name].clone().requires_grad_() for name in ("input", "weight"))
    output = conv2d(**CALL | {"input": input, "weight": weight}, backend="reference")
    (grad,) = torch.autograd.grad(output.sum(), input, create_graph=True)
    grad.square().sum().backward()
    assert set(ran) == {"reference", "reference backward"}


def test_a_backward_without_a_choice_of_its_own_obeys_the_one_around_it(monkeypatch, ran):
    input = CALL["input"].clone().requires_grad_()
    output = conv2d(**CALL | {"input": input})
    ran.clear()
    with use_backend("reference"):
        output.sum().backward()
    assert ran == ["reference backward"]


def test_a_backend_that_cannot_run_says_why(refused):
    sentence = "^backend 'reference' cannot run this call: it is out of order$"
    with pytest.raises(RuntimeError, match=sentence):
        conv2d(**CALL, backend="reference")
    with use_backend("reference"):
        with pytest.raises(RuntimeError, match=sentence):
            conv(*CALL.values())
        with torch.inference_mode(), pytest.raises(RuntimeError, match=sentence):
            conv2d(**CALL)


@pytest.mark.parametrize("name", ["cudnn", "", "Composite"])
def test_an_unknown_name_is_refused_at_once(name):
    with pytest.raises(ValueError, match=rf"^backend must be one of {', '.join(backends.NAMES)}, got '{name}'$"):
        use_backend(name).__enter__()
    assert backends.chosen_backend() is None


class Interrupted(BaseException):
    pass


@pytest.mark.parametrize("inference", [False, True])
def test_what_a_backend_raises_arrives_unchanged(monkeypatch, inference):
    def interrupt(*args):
        raise Interrupted

    monkeypatch.setattr(backends.composite, "conv", interrupt)
    with torch.inference_mode(inference), pytest.raises(Interrupted):
        conv2d(**CALL, backend="composite")


def test_what_a_backend_raises_in_backward_arrives_unchanged(monkeypatch):
    def interrupt(*args):
        raise Interrupted

    output = conv2d(**CALL | {"input": CALL["input"].clone().requires_grad_()}, backend="composite")
    monkeypatch.setattr(backends.composite, "conv_backward", interrupt)
    with pytest.raises(Interrupted):
        output.sum().backward()


def test_an_error_of_before_is_not_raised_again(monkeypatch):
    with monkeypatch.context() as patch, torch.inference_mode(), use_backend("composite"):
        patch.setattr(backends.composite, "conv", lambda *args: 1 / 0)
        with pytest.raises(RuntimeError):
            conv(*CALL.values())
    with pytest.raises(RuntimeError, match=r"^kerneldna::conv: groups must divide"):
        conv(*(CALL | {"groups": 2}).values())


def test_the_choice_belongs_to_a_thread(ran):
    """While one thread has chosen, another one is asked in Python too, and still gets the automatic choice."""
    chosen, checked = threading.Event(), threading.Event()
    seen = []

    def other():
        chosen.wait(10)
        seen.append(backends.chosen_backend())
        with use_backend("composite"):
            conv2d(**CALL)
        seen.append(backends.chosen_backend())
        checked.set()

    thread = threading.Thread(target=other)
    thread.start()
    with use_backend("reference"):
        chosen.set()
        assert checked.wait(10)
        conv2d(**CALL)
    thread.join()
    assert seen == [None, None]
    assert ran == ["composite", "reference"]
    assert backends._selection._holders == 0


def test_many_threads_leave_no_trace():
    failures = []

    def work(name):
        for _ in range(20):
            with use_backend(name):
                if backends.chosen_backend() != name:
                    failures.append(name)
                conv2d(**CALL)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("composite", "reference") * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert backends._selection._holders == 0


def two_steps(seen):
    seen.append(backends.chosen_backend())
    yield
    seen.append(backends.chosen_backend())


def test_a_decorated_generator_chooses_while_it_runs():
    """As one under torch.no_grad, which its caller does not notice."""
    seen = []
    steps = use_backend("reference")(two_steps)(seen)
    next(steps)
    assert backends.chosen_backend() is None
    next(steps, None)
    assert seen == ["reference", "reference"]
    assert backends._selection._holders == 0


def test_a_generator_that_another_thread_closes():
    """Each thread has the choice that torch.no_grad would leave it, and the library asks as long as one has any."""

    def chooses():
        with torch.no_grad(), use_backend("reference"):
            yield

    def close():
        steps.close()
        left.append((backends.chosen_backend(), torch.is_grad_enabled()))

    left, steps = [], chooses()
    try:
        next(steps)
        thread = threading.Thread(target=close)
        thread.start()
        thread.join()
        left.append((backends.chosen_backend(), torch.is_grad_enabled()))
        assert left == [(None, True), ("reference", False)]
        assert backends._selection._holders == 1
    finally:
        torch.set_grad_enabled(True)
        use_backend._choose(None)
    assert backends._selection._holders == 0


def test_the_autotuner_in_a_decorated_generator(monkeypatch):
    from kerneldna_ops.backends._autotune import autotune

    seen = []

    @autotune()
    def steps():
        seen.append(backends.Asked.here().reaction is not None)
        yield
        seen.append(backends.Asked.here().reaction is not None)

    for _ in steps():
        seen.append(backends.Asked.here().reaction)
    assert seen == [True, None, True]


def test_the_choice_is_logged_with_its_reasons(caplog, monkeypatch, refused, in_python):
    monkeypatch.setattr(backends, "AUTOMATIC", ("reference", "composite"))
    with caplog.at_level(logging.DEBUG, "kerneldna_ops"), use_backend("composite"):
        conv2d(**CALL)
        with use_backend(None):
            conv2d(**CALL)
    explicit, automatic = (record.getMessage() for record in caplog.records)
    assert explicit == "composite: explicit choice, runs anywhere"
    assert automatic == "composite: automatic choice, runs anywhere; not reference because it is out of order"


# squeeze_excite

GATE = [torch.linspace(-1, 1, n).view(shape) for n, shape in ((48, (2, 6, 2, 2)), (18, (3, 6)), (18, (6, 3)))]
GATE = (GATE[0], GATE[1], None, GATE[2], None)
squeeze_excite = torch.ops.kerneldna.squeeze_excite


@pytest.fixture
def gates(monkeypatch):
    """The names of the Python backends that ran squeeze_excite."""
    names = []
    for name in ("composite", "reference"):
        original = backends.module_of(name).squeeze_excite
        spy = lambda *args, name=name, original=original: names.append(name) or original(*args)  # noqa: E731
        monkeypatch.setattr(backends.module_of(name), "squeeze_excite", spy)
    return names


def test_squeeze_excite_runs_where_it_was_chosen_to(gates):
    native = squeeze_excite(*GATE)
    for name in ("composite", "reference", "cpu", None):
        with use_backend(name):
            torch.testing.assert_close(squeeze_excite(*GATE), native)
    assert gates == ["composite", "reference"]


def test_squeeze_excite_on_the_cpu_asks_nobody_without_a_choice(monkeypatch):
    monkeypatch.setattr(backends, "_select_gate", lambda *args: pytest.fail("Python was asked"))
    squeeze_excite(*GATE)


def test_where_the_library_has_no_kernel_plain_pytorch_answers(gates):
    backends.squeeze_excite(*(None if arg is None else arg.to("meta") for arg in GATE))
    assert gates == ["composite"]


def test_squeeze_excite_on_a_backend_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(backends.module_of("reference"), "runs_on", lambda input: (False, "it is out of order"))
    sentence = "backend 'reference' cannot run this call: it is out of order"
    with use_backend("reference"):
        with pytest.raises(RuntimeError, match=sentence):
            squeeze_excite(*GATE)
        layer = kerneldna_ops.nn.SqueezeExcite(6).eval()
        with torch.no_grad(), pytest.raises(RuntimeError, match=f"^{sentence}$"):
            layer(GATE[0])


# What the C++ library is told


@pytest.fixture
def told(monkeypatch):
    """The classes that Python wants to decide, each time they are told to the library."""
    classes = []
    monkeypatch.setattr(backends, "_select_in_python", classes.append)
    return classes


def test_on_cuda_python_decides_on_conv_and_on_all_else_where_a_choice_was_made(told, winners):
    winners({5: Winner("composite", "measured faster")})
    with use_backend("composite"):
        pass
    unasked = [5, *range(128, 256), 258, 260]
    assert told == [unasked, list(range(261)), unasked]


def run_python(code, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "KERNELDNA_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, timeout=120
    )


RUN = """
import logging, torch, kerneldna_ops
logging.basicConfig(level=logging.DEBUG, format="%(message)s")
logging.getLogger("torch").setLevel(logging.WARNING)
one = torch.ones(1, 1, 1, 1)
torch.ops.kerneldna.conv(one, one)
with kerneldna_ops.use_backend("composite"):
    torch.ops.kerneldna.conv(one, one)
torch.ops.kerneldna.conv(one, one)
"""


def test_the_variable_chooses_for_the_process():
    done = run_python(RUN, KERNELDNA_BACKEND="reference")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["reference", "composite", "reference"]


def test_an_empty_variable_is_no_choice():
    done = run_python("import kerneldna_ops.backends as b; print(b.chosen_backend())", KERNELDNA_BACKEND="")
    assert done.stdout.strip() == "None", done.stderr


def test_a_wrong_variable_is_refused_on_import():
    done = run_python("import kerneldna_ops", KERNELDNA_BACKEND="fastest")
    assert done.returncode != 0
    names = ", ".join(backends.AUTOMATIC)
    assert done.stderr.splitlines()[-1] == f"ValueError: KERNELDNA_BACKEND must be one of {names}, got 'fastest'"


def test_the_package_names_what_chooses():
    assert kerneldna_ops.use_backend is use_backend
    assert {"compatible_backends", "explain_backends", "use_backend"} <= set(kerneldna_ops.__all__)


@pytest.mark.parametrize("call", [conv, conv2d], ids=["op", "function"])
def test_what_a_refused_call_got_is_let_go(call, refused):
    """Also without the garbage collector, and by the op itself, which nobody asks for the reason."""
    assert_let_go(lambda input: call(input, torch.zeros(4, 8, 3, 3)), torch.randn(2, 8, 5, 5))


@pytest.mark.parametrize("call", [torch.ops.kerneldna.squeeze_excite, None], ids=["op", "layer"])
def test_what_a_refused_gate_got_is_let_go(call, monkeypatch):
    monkeypatch.setattr(backends.module_of("reference"), "runs_on", lambda *args: (False, "it is out of order"))
    weights = torch.zeros(2, 8), None, torch.zeros(8, 2), None
    se = kerneldna_ops.nn.SqueezeExcite(8).eval()
    assert_let_go((lambda input: call(input, *weights)) if call else se, torch.randn(2, 8, 5, 5))


def assert_let_go(call, input):
    alive = weakref.ref(input)
    reason = ""
    try:
        with torch.no_grad(), use_backend("reference"):
            call(input)
    except RuntimeError as error:
        reason = str(error)
    assert "out of order" in reason
    del input
    assert alive() is None
