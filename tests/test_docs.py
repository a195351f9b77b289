"""Every block of Python in README.md and docs/ runs, where its tools are installed, and every link leads somewhere."""

import ast
import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))
LINKED = [README, *PAGES, ROOT / "csrc" / "cuda" / "README.md"]


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


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)
    }
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_there_are_blocks():
    assert len(list(cases())) > 10
