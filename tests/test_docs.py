"""What README, docs, CONTRIBUTING and examples say holds: blocks of Python and examples run, where their tools are
installed, commands are those that there are, and links lead somewhere."""

import ast
import importlib.util
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch

from kerneldna_ops.commands import cli

ROOT = Path(__file__).parents[1]
README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
LINKED = [README, *PAGES, *sorted(ROOT.glob("C*.md")), ROOT / "SECURITY.md", ROOT / "csrc" / "cuda" / "README.md"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def blocks(page):
    """The first of a page, which the others go on from, and the others."""
    found = python(page)
    return "".join(found[:1]), found[1:] or found


def python(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def tools(code):
    """The packages that a block imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def cases():
    for page in PAGES:
        for number, block in enumerate(blocks(page)[1]):
            yield pytest.param(page, block, id=f"{page.stem}-{number}-{'-'.join(sorted(set(tools(block))))}")


@pytest.mark.parametrize(("page", "block"), list(cases()))
@pytest.mark.filterwarnings("ignore")
def test_block(page, block, tmp_path, monkeypatch, threads):
    missing = [tool for tool in tools(block) if importlib.util.find_spec(tool) is None]
    if missing:
        pytest.skip(f"needs {missing[0]}, which is not installed")
    monkeypatch.chdir(tmp_path)
    # As torchrun starts a single process.
    for name, value in {"MASTER_ADDR": "localhost", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    try:
        exec(compile(blocks(page)[0] + block, str(page), "exec"), {"__name__": "__main__"})
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def test_readme():
    """Its blocks are read from top to bottom."""
    code = "".join(python(README))
    assert "assert torch.allclose(y, z" in code
    exec(compile(code, str(README), "exec"), {"__name__": "__main__"})


def anchors_of(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = (page.parent / file) if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def shell_commands(page):
    for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        yield from (shlex.split(line, comments=True) for line in block.splitlines() if shlex.split(line, comments=True))
    for command in re.findall(r"`((?:make|python -m|kerneldna) [^`]+)`", page.read_text()):
        yield command.split()


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_commands(page, monkeypatch, tmp_path):
    """They are not run, as most take minutes or a card; but there is what they name, and it takes their options."""
    for command in shell_commands(page):
        check_command(command, monkeypatch)


def check_command(command, monkeypatch):
    program, *arguments = command
    if program == "pip":  # what there is to install from is the checkout or an index
        assert arguments[0] == "install", command
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, command
    elif program == "kerneldna":
        assert parses(arguments, monkeypatch), command
    elif program.endswith("python") and arguments[0] == "-m":
        module, *options = arguments[1:]
        assert importlib.util.find_spec(module) is not None, command
        paths = [option.partition("::")[0] for option in options if option.startswith(("tests", "benchmarks/"))]
        assert all((ROOT / path).exists() for path in paths), command
    else:
        assert (ROOT / program).is_file(), command


def parses(arguments, monkeypatch):
    """Whether the command's own parser takes them; what it would do is left out."""
    if arguments[0] in ("env", "COMMAND"):
        return True
    if len(arguments) == 1:  # named in a sentence
        return arguments[0] in cli.COMMANDS
    module = importlib.import_module(cli.COMMANDS[arguments[0]][0], cli.__package__)
    monkeypatch.setattr(module, "run", lambda options: 0)
    return cli.main(arguments) == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_example(example, tmp_path, monkeypatch, capsys, threads):
    assert len(example.read_text().splitlines()) < 80
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(example)])
    if example.name == "measure_gpu.py" and not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="needs an NVIDIA GPU"):
            runpy.run_path(str(example), run_name="__main__")
    else:
        runpy.run_path(str(example), run_name="__main__")
        assert capsys.readouterr().out


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


def test_there_are_blocks():
    assert len(list(cases())) > 10
    assert len(list(shell_commands(README))) >= 4
    assert len(EXAMPLES) >= 5
