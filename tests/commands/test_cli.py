"""The command kerneldna: its subcommands, what it prints for an error, its exit status."""

import importlib
import sys
import types

import pytest

from kerneldna_ops.commands import cli


@pytest.fixture
def subcommand(monkeypatch):
    """A function that puts another function in the place of `kerneldna train`."""

    def put(run):
        module = types.ModuleType("kerneldna_ops.commands.made_up")
        module.add_arguments = lambda parser: parser.add_argument("--epochs", type=int, default=3)
        module.run = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "train", (".made_up", "for this test"))

    return put


def test_arguments_and_exit_status(subcommand):
    subcommand(lambda options: options.epochs)
    assert cli.main(["train", "--epochs", "7"]) == 7
    subcommand(lambda options: None)
    assert cli.main(["train"]) == 0


@pytest.mark.parametrize("error", cli.EXPECTED)
def test_what_is_wrong_with_the_input_is_one_line(subcommand, capsys, error):
    def run(options):
        raise error("no images in data/")

    subcommand(run)
    assert cli.main(["train"]) == 1
    assert capsys.readouterr().err == "kerneldna train: no images in data/\n"


def test_a_fault_keeps_its_traceback(subcommand):
    def run(options):
        raise RuntimeError("a fault")

    subcommand(run)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["train"])


def test_ctrl_c(subcommand, capsys):
    def run(options):
        raise KeyboardInterrupt

    subcommand(run)
    assert cli.main(["train"]) == 130
    assert "Stopped by Ctrl-C" in capsys.readouterr().err


def test_env(capsys):
    assert cli.main(["env"]) == 0
    assert "torch: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train", "--epoch", "x"]])
def test_wrong_usage(subcommand, arguments):
    subcommand(lambda options: None)
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2


def test_help_shows_the_defaults_that_say_something(subcommand, capsys):
    subcommand(lambda options: None)
    module = sys.modules["kerneldna_ops.commands.made_up"]
    module.add_arguments = lambda parser: (
        parser.add_argument("--epochs", default=3, help="passes"),
        parser.add_argument("--folder", help="where to"),
        parser.add_argument("--quiet", action="store_true", help="no bars"),
    )
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert "passes (default: 3)" in text
    assert text.count("default") == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name, capsys):
    importlib.import_module(cli.COMMANDS[name][0], cli.__package__)
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    assert stopped.value.code == 0
    assert cli.COMMANDS[name][1] in " ".join(capsys.readouterr().out.split())
