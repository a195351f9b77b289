"""Every block of Python in docs/ runs, where its tools are installed."""

import ast
import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def blocks(page):
    """The first of a page, which the others go on from, and the others."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return "".join(found[:1]), found[1:] or found


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


@pytest.mark.parametrize(("page", "block"), cases())
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


def test_there_are_blocks():
    assert len(list(cases())) > 10
