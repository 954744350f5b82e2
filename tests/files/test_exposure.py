"""What others could exchange for something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dbbbatch.files import exposure
from dbbbatch.files.exposure import look_below, why_replaceable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "above" / "root"
    root.mkdir(parents=True)
    for path in (root.parent, root):
        path.chmod(0o755)
    return root


def test_a_directory_of_ours_is_not_exposed(root: Path) -> None:
    (root / "night").mkdir(mode=0o755)
    assert why_replaceable(str(root)) == ""
    assert look_below(str(root)) == ("", "")


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (0o775, "can be written by its group: chmod g-w"),
        (0o757, "can be written by everybody: chmod o-w"),
        (0o777, "can be written by everybody: chmod go-w"),
        (0o1777, ""),
    ],
)
def test_whoever_may_write_above_can_replace_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, mode: int, told: str
) -> None:
    monkeypatch.setattr("dbbbatch.files.trust._is_private", lambda status: False)
    root.parent.chmod(mode)
    assert why_replaceable(str(root)) == (told and f"{root.parent} {told} {root.parent}")


def test_what_is_written_in_it_does_not_replace_it(root: Path) -> None:
    root.chmod(0o777)
    assert why_replaceable(str(root)) == ""


@pytest.mark.parametrize("rel", ["", "night", "night/more"])
@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_directory_that_others_write_in_is_named(root: Path, rel: str, mode: int) -> None:
    (root / "night" / "more").mkdir(parents=True)
    (root / rel).chmod(mode)
    exposed = str(root / rel)
    assert look_below(str(root)).exposed.startswith(f"{exposed} can be written by everybody: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_so_is_one_that_belongs_to_another_user(root: Path) -> None:
    (root / "night").mkdir()
    os.chown(root / "night", 4711, -1)
    assert look_below(str(root)).exposed.startswith(f"{root}/night belongs to ")
    os.chown(root.parent, 4711, -1)
    assert why_replaceable(str(root)).startswith(f"{root.parent} belongs to ")


def test_a_link_to_a_directory_is_named_and_not_followed(root: Path) -> None:
    away = root.parent / "away"
    (away / "open").mkdir(parents=True)
    (away / "open").chmod(0o777)
    (root / "night").mkdir()
    (root / "night" / "link").symlink_to(away)
    assert look_below(str(root)) == ("", f"{root}/night/link")


def test_a_link_to_a_file_does_not_matter(root: Path) -> None:
    (root / "file").touch()
    (root / "link").symlink_to("file")
    (root / "dangling").symlink_to("nowhere")
    assert look_below(str(root)).link == ""


def test_only_so_many_directories_are_looked_at(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposure, "_MOST_DIRECTORIES", 2)
    (root / "night" / "more").mkdir(parents=True)
    (root / "night" / "more").chmod(0o777)
    assert look_below(str(root)).exposed == ""


def test_a_name_from_somewhere_is_harmless_in_a_terminal(root: Path) -> None:
    (root / "\x1b[31m").mkdir()
    (root / "\x1b[31m").chmod(0o777)
    assert "\x1b" not in look_below(str(root)).exposed
