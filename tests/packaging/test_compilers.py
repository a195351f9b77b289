"""Which compilers and Pythons setup.py takes, and what it says of others: stand-ins that answer as such a one does.
Real builds are `make another-compiler`, which .ci/run does with clang where it is installed."""

import runpy
import sys

import pytest

from support.commands import ROOT

NEEDED = (
    r"GCC 11 or newer or clang 14 or newer is needed \(Debian and Ubuntu: apt install g\+\+\), which CC and CXX choose"
)


@pytest.fixture
def compiler(tmp_path):
    """The command of a compiler that has these macros."""

    def make(**macros):
        file = tmp_path / "c++"
        lines = "".join(f"#define __{name}__ {value}\\n" for name, value in macros.items())
        file.write_text(
            f"#!{sys.executable}\nassert '-dM' in __import__('sys').argv\nprint('''#define EMPTY \\n{lines}''')\n"
        )
        file.chmod(0o755)
        return [str(file)]

    return make


@pytest.mark.parametrize("macros", [{"GNUC": 11}, {"GNUC": 15}, {"GNUC": 4, "clang_major": 14}])
def test_those_that_the_sources_were_compiled_with(setup_py, compiler, macros):
    setup_py.check_compiler(compiler(**macros))


@pytest.mark.parametrize(
    ("macros", "name"),
    [({"GNUC": 10}, "GCC 10"), ({"GNUC": 4, "clang_major": 13}, "clang 13"), ({"TINYC": 9}, "GCC of no version")],
)
def test_older_ones_are_refused(setup_py, compiler, macros, name):
    with pytest.raises(SystemExit, match=rf"^kerneldna-ops: \S+/c\+\+ is {name}: {NEEDED}$"):
        setup_py.check_compiler(compiler(**macros))


def test_a_python_without_the_gil_is_refused(setup_py, monkeypatch):
    monkeypatch.setattr(setup_py.sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    sentence = r"^kerneldna-ops: this Python is free-threaded .*: a Python with the GIL is needed, 3\.10 or newer$"
    with pytest.raises(SystemExit, match=sentence):
        setup_py.extension()


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match=r"not importable here: .* `pip install --no-build-isolation \.`; .* 3 GB$"):
        runpy.run_path(str(ROOT / "setup.py"))


def test_none_at_all(setup_py):
    with pytest.raises(SystemExit, match=rf"^kerneldna-ops: there is no C\+\+ compiler 'no-such-c\+\+': {NEEDED}$"):
        setup_py.check_compiler(["no-such-c++", "-O2"])


def test_one_that_does_not_work(setup_py):
    broken = [sys.executable, "-c", "import sys; sys.exit('no licence')"]
    with pytest.raises(SystemExit, match=rf"^kerneldna-ops: .* does not work: no licence; {NEEDED}$"):
        setup_py.check_compiler(broken)
