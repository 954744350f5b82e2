"""Files of a buffer are hashed and held as they were looked at, whatever is exchanged meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint.batch import Prepared, SendStatus
from dbbbatch.config import sections
from dbbbatch.config.fields import defaults
from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.files import checksum
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry, Tree
from tests.support.disks import exchange
from tests.support.site import tree as files_of

pytestmark = pytest.mark.promise

OURS, PRIVATE = b"of the buffer", b"of somebody else"


class Near(NamedTuple):
    """A buffer with a file in a directory, its holding area, and a private directory elsewhere."""

    section: sections.Handoff
    buffer: Tree
    holding: Tree
    root: Path
    outside: Path

    def row(self, rel: str = "night/a") -> HandoffRow:
        """Return the row of a file, as a pass that delivered it has it."""
        file = self.buffer.entry(rel)
        digest = checksum.compute(file)["blake2b"]
        version = Version.of_file(file.lstat())
        return HandoffRow(file.relpath, file.name, *version, checksum=f"blake2b:{digest}", id=1)

    def exchange_directories(self) -> None:
        """Let the name of the directory lead outside."""
        exchange(self.root / "buffer" / "night", self.root / "buffer" / "link")

    def exchange_files(self) -> None:
        """Let the name of the file be that of another one."""
        exchange(self.root / "buffer" / "night" / "a", self.root / "buffer" / "night" / "other")

    def held(self) -> dict[str, bytes]:
        """Return what is in holding."""
        return files_of(self.root / "holding")


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Near]:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "a").write_bytes(PRIVATE)
    for name in ("buffer", "holding", "quarantine"):
        (tmp_path / name).mkdir()
    (tmp_path / "buffer" / "night").mkdir()
    (tmp_path / "buffer" / "night" / "a").write_bytes(OURS)
    (tmp_path / "buffer" / "night" / "other").write_bytes(b"another file")
    (tmp_path / "buffer" / "link").symlink_to(outside)
    places = {name: str(tmp_path / name) for name in ("buffer", "holding", "quarantine")}
    endpoint = defaults(sections.Endpoint, buffer="/far/buffer", staging="/far/staging")
    section = defaults(sections.Handoff, name="x", endpoint=endpoint, **places)
    with Tree(places["buffer"]) as first, Tree(places["holding"]) as second:
        yield Near(section, first, second, tmp_path, outside)
    assert (outside / "a").read_bytes() == PRIVATE
    assert os.listdir(outside) == ["a"]


def before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, do: Callable[[], None], number: int = 1
) -> None:
    """Do something just before the Nth call of a function."""
    real, calls = getattr(owner, name), []

    def function(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            do()
        return real(*arguments, **more)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize("step", [(Entry, "lstat"), (Entry, "move_to"), (Tree, "sync")])
def test_a_directory_that_is_exchanged_for_a_link_lets_nothing_outside_be_held(
    near: Near, monkeypatch: pytest.MonkeyPatch, step: tuple[object, str]
) -> None:
    row = near.row()
    before(monkeypatch, *step, near.exchange_directories)
    result = buffer.hold(near.buffer, near.holding, [row])
    assert near.held() in ({}, {"night/a": OURS})
    assert bool(result.held) == bool(near.held())


def test_a_directory_that_is_a_link_already_holds_nothing(near: Near) -> None:
    row = near.row()
    near.exchange_directories()
    result = buffer.hold(near.buffer, near.holding, [row])
    # It may be back in a moment: the file is not gone for certain.
    assert not result.gone
    assert not result.held
    assert [(stuck, error.strerror) for stuck, error in result.stuck] == [
        (row, f"{near.root}/buffer/night is no directory, or is reached through a symbolic link")
    ]
    assert near.held() == {}


@pytest.mark.parametrize("what", ["another file", "a link"])
def test_what_is_moved_instead_of_an_original_goes_back(
    near: Near, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    row = near.row()
    other = near.root / "buffer" / "night" / "other"
    if what == "a link":
        other.unlink()
        other.symlink_to(near.outside / "a")
    before(monkeypatch, Entry, "move_to", near.exchange_files)
    result = buffer.hold(near.buffer, near.holding, [row])
    assert result.gone == {1: "delivered, but replaced by another version"}
    assert near.held() == {}
    assert other.read_bytes() == OURS
    back = near.root / "buffer" / "night" / "a"
    assert back.is_symlink() if what == "a link" else back.read_bytes() == b"another file"


def test_a_directory_of_holding_that_is_a_link_takes_nothing(near: Near) -> None:
    (near.root / "holding" / "night").symlink_to(near.outside)
    result = buffer.hold(near.buffer, near.holding, [near.row()])
    assert [type(error) for _, error in result.stuck] == [NotADirectoryError]
    assert (near.root / "buffer" / "night" / "a").read_bytes() == OURS


def test_a_directory_of_holding_that_is_exchanged_meanwhile_is_not_recorded(
    near: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    (near.root / "holding" / "night").mkdir()
    (near.root / "holding" / "away").mkdir()
    before(
        monkeypatch,
        Tree,
        "sync",
        lambda: exchange(near.root / "holding" / "night", near.root / "holding" / "away"),
    )
    result = buffer.hold(near.buffer, near.holding, [near.row()])
    assert (result.held, [error.errno for _, error in result.stuck]) == ([], [errno.ESTALE])
    assert near.held() == {"away/a": OURS}


@pytest.mark.parametrize("exchanged", ["directories", "files"])
@pytest.mark.parametrize(
    ("owner", "name", "number"), [(Entry, "open", 1), (checksum, "stream", 1), (Entry, "lstat", 2)]
)
def test_what_is_exchanged_while_it_is_read_is_not_sent_with_the_checksum_of_another_file(
    near: Near,
    monkeypatch: pytest.MonkeyPatch,
    exchanged: str,
    owner: object,
    name: str,
    number: int,
) -> None:
    row = near.row()
    known, row = row.checksum, row._replace(checksum=None)
    before(monkeypatch, owner, name, getattr(near, f"exchange_{exchanged}"), number)
    (found,) = buffer.prepare_files(near.section, near.buffer, [row], read=True)
    # A directory that was opened is still the same one under another name.
    assert found is None or (isinstance(found, Prepared) and found.row.checksum == known)
    assert exchanged == "directories" or found is None


def test_a_file_behind_a_link_has_vanished(near: Near) -> None:
    row = near.row()
    near.exchange_directories()
    (found,) = buffer.prepare_files(near.section, near.buffer, [row], read=True)
    assert found is not None
    assert not isinstance(found, Prepared)
    assert found.status is SendStatus.VANISHED


@pytest.mark.parametrize("exchanged", ["directories", "files"])
def test_the_stream_opens_the_version_of_the_row_or_nothing(near: Near, exchanged: str) -> None:
    row, file = near.row(), near.buffer.entry("night/a")
    os.close(buffer.open_version(file, row))
    getattr(near, f"exchange_{exchanged}")()
    near.buffer.forget()
    with pytest.raises((checksum.Changed, NotADirectoryError)):
        buffer.open_version(file, row)


def test_each_name_of_a_file_is_found_in_holding_as_itself(near: Near) -> None:
    buffer_, holding = (near.root / name / "night" for name in ("buffer", "holding"))
    os.link(buffer_ / "a", buffer_ / "a.other")
    rows = [near.row("night/a")._replace(id=1), near.row("night/a.other")._replace(id=2)]
    holding.mkdir(exist_ok=True)
    (buffer_ / "a.other").rename(holding / "a.other")
    (buffer_ / "a").rename(holding / "a.~1~")
    for order in (rows, rows[::-1]):
        result = buffer.hold(near.buffer, near.holding, order)
        assert {row.id: name for row, name in result.held} == {1: "a.~1~", 2: "a.other"}
    (holding / "a.~1~").unlink()
    result = buffer.hold(near.buffer, near.holding, rows)
    assert [row.id for row, _ in result.held] == [2]
    assert list(result.gone) == [1]
