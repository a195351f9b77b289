import contextlib
import os

from kerneldna_ops._files import remove_leftovers, replacing


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new folder" / "table.md"
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("old")
    with contextlib.suppress(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    path.write_text("old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append((os.fstat(descriptor).st_ino, path.read_text())))
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert seen == [(path.stat().st_ino, "old"), (tmp_path.stat().st_ino, "new")]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "last.pt"
    for name in (".123-last.pt", ".123-best.pt", ".note-last.pt", "last.pt"):
        (tmp_path / name).touch()
    remove_leftovers(path)
    assert {other.name for other in tmp_path.iterdir()} == {".123-best.pt", ".note-last.pt", "last.pt"}
