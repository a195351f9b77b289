"""The source archive builds (the wheel of these tests is made from it) and has all that a build may need."""

import shutil

import pytest

from support.commands import ROOT, run


def test_has_every_source_of_the_library(unpacked):
    def sources(root):
        return {str(path.relative_to(root)) for path in (root / "csrc").rglob("*") if path.is_file()}

    assert sources(unpacked) == sources(ROOT)


def test_has_what_the_build_reads(unpacked):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a checkout of git")
def test_has_all_else_that_the_checkout_has(unpacked):
    """Its Makefile, tests, benchmarks and pages: what was unpacked can be developed."""
    tracked = run(["git", "-C", ROOT, "ls-files"]).splitlines()
    absent = [name for name in tracked if (ROOT / name).exists() and not (unpacked / name).exists()]
    assert [name for name in absent if not name.startswith(".github/")] == []


def test_its_makefile_lists_its_targets(unpacked):
    assert "make test" in run(["make", "help"], cwd=unpacked)


def test_builds_a_wheel(wheel):
    assert wheel.stat().st_size > 0
