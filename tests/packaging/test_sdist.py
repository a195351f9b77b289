"""The source archive builds (the wheel of these tests is made from it) and has all that a build may need."""

from support.commands import ROOT


def test_has_every_source_of_the_library(unpacked):
    def sources(root):
        return {str(path.relative_to(root)) for path in (root / "csrc").rglob("*") if path.is_file()}

    assert sources(unpacked) == sources(ROOT)


def test_has_what_the_build_reads(unpacked):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


def test_builds_a_wheel(wheel):
    assert wheel.stat().st_size > 0
