"""A directory that goes away while a pass works in it: nothing is recorded, lost or doubled."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.release import Releases
from dbbbatch.config import load
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, place
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.passes import runner
from dbbbatch.passes.auditor.work import AuditorWork
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.janitor import Housekeeping, JanitorWork
from dbbbatch.targets.plugin import NotReady, StoredFile
from tests.passes.finder.test_rsync_logs import Logs
from tests.support import handing
from tests.support.disks import Area, area
from tests.support.finding import Finding, tree
from tests.support.site import Site
from tests.support.site import tree as files_of
from tests.targets.offering import started

pytestmark = pytest.mark.promise

#: At the top, so that no missing directory keeps them from a bare mount point, and below.
FILES = {"a": b"one", "b": b"two", "c": b"three", "night/d": b"four"}


@pytest.fixture(params=["renamed", "unmounted"])
def mounted(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "unmounted")


@pytest.fixture
def storage(finding: Finding, mounted: bool) -> Iterator[Area]:
    with area(finding.storage, mounted) as made:
        yield made


@pytest.fixture(params=["one_file_system", "two"])
def finding(request: pytest.FixtureRequest, settings: load.Settings, tmp_path: Path) -> Finding:
    other = request.getfixturevalue("other_file_system") if request.param == "two" else None
    return Finding(settings, tmp_path, other, alternative="delete", min_free=0)


def at_call(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, number: int, do: Callable[[], None]
) -> None:
    """Do something just before the Nth call of a function."""
    real, calls = getattr(module, name), []

    def function(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            do()
        return real(*arguments, **more)

    monkeypatch.setattr(module, name, function)


@pytest.mark.parametrize(
    ("module", "step", "number"),
    [(Entry, "move_to", 1), (Entry, "move_to", 2), (Tree, "sync_file_system", 1)],
)
def test_a_storage_area(
    finding: Finding,
    storage: Area,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    step: str,
    number: int,
) -> None:
    finding.add_target()
    for rel, content in FILES.items():
        finding.put(rel, content)
    with monkeypatch.context() as patch:
        at_call(patch, module, step, number, storage.goes_away)
        assert finding.run() == 75
    assert {status for _, _, status in finding.rows()} <= {"ARRIVING"}
    assert finding.rows("SELECT count(*) FROM ingest_state") == [(0,)]
    assert tree(storage.comes_back()) == {}
    assert finding.run() == 0
    assert tree(finding.storage) == FILES
    assert tree(finding.source) == {}
    assert [status for _, _, status in finding.rows()] == ["STORED"] * len(FILES)


def test_what_comes_under_a_name_while_its_file_is_on_the_disk_that_went_away_is_told_apart(
    settings: load.Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(settings, tmp_path)
    with area(finding.storage, mounted=False) as storage:
        finding.put("a", b"one")
        with monkeypatch.context() as patch:
            at_call(patch, Entry, "move_to", 1, storage.goes_away)
            assert finding.run() == 75
        finding.put("a", b"next")
        assert finding.run() == 75
        assert tree(finding.source) == {"a": b"next"}
        assert tree(storage.comes_back()) == {}
        assert finding.run() == 1
    assert tree(finding.storage) == {"a": b"one"}
    assert tree(finding.quarantine) == {"a": b"next"}
    assert finding.rows() == [("", "a", "STORED")]


def test_a_quarantine(finding: Finding, mounted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for rel, content in FILES.items():
        finding.put(rel, content, finding.storage)
        finding.put(rel, content + b", other")
    with area(finding.quarantine, mounted) as aside:
        with monkeypatch.context() as patch:
            at_call(patch, Entry, "move_to", 2, aside.goes_away)
            assert finding.run() == 75
        aside_rows = "SELECT count(*) FROM quarantine WHERE quarantined_at IS NOT NULL"
        assert finding.rows(aside_rows) == [(0,)]
        assert tree(aside.comes_back()) == {}
        assert finding.run() in (0, 1)
        assert tree(finding.quarantine) == {rel: b + b", other" for rel, b in FILES.items()}
        assert tree(finding.source) == {}
        assert tree(finding.storage) == FILES


def test_a_storage_area_that_rsync_fills(
    settings: load.Settings, tmp_path: Path, mounted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = Logs(settings, tmp_path)
    for rel, content in FILES.items():
        logs.store(rel, content)
    logs.log(*FILES)
    with area(logs.storage, mounted) as storage:
        with monkeypatch.context() as patch:
            at_call(patch, checksum, "compute", 2, storage.goes_away)
            assert logs.run() == 75
        assert logs.rows() == []
        assert logs.rows("SELECT count(*) FROM finder_left") == [(0,)]
        storage.comes_back()
        assert logs.run() == 0
        assert [status for _, _, status in logs.rows()] == ["STORED"] * len(FILES)


@pytest.mark.parametrize(
    "work", [lambda finder: AuditorWork(finder, adopt=True, missing=1), BackfillWork]
)
def test_a_storage_area_that_is_recorded_as_it_is(
    settings: load.Settings,
    tmp_path: Path,
    mounted: bool,
    monkeypatch: pytest.MonkeyPatch,
    work: Any,
) -> None:
    finding = Finding(settings, tmp_path, work=work, audit_rate=0)
    for rel, content in FILES.items():
        finding.put(rel, content, finding.storage)
    with area(finding.storage, mounted) as storage:
        with monkeypatch.context() as patch:
            at_call(patch, checksum, "compute", 2, storage.goes_away)
            assert finding.run() == 75
        assert finding.rows() == []
        storage.comes_back()
        assert finding.run() == 0
        assert [status for _, _, status in finding.rows()] == ["STORED"] * len(FILES)


def test_a_holding_area(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.write(handoff={"min_free": 0})
    site.put_all(FILES)
    with area(site.holding, mounted=False) as holding:
        with monkeypatch.context() as patch:
            at_call(patch, place, "place_versioned", 2, holding.goes_away)
            assert handing.make_pass(site) == 75
        assert set(handing.rows(site)) == {"DELIVERED"}
        bare = holding.comes_back()
        assert files_of(bare) == {}
        assert handing.make_pass(site) == 0
        assert set(handing.rows(site)) == {"HELD"}
        assert files_of(site.holding) == files_of(site.far_buffer) == FILES
        assert files_of(site.buffer) == {}


def test_a_buffer_has_not_lost_what_is_not_in_its_mount_point(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(handoff={"min_free": 0})
    site.put_all(FILES)
    with area(site.buffer, mounted=False) as buffer:
        with monkeypatch.context() as patch:
            at_call(patch, checksum, "stream", 2, buffer.goes_away)
            assert handing.make_pass(site) == 75
        assert "VANISHED" not in handing.rows(site)
        buffer.comes_back()
        assert handing.make_pass(site) == 0
        assert files_of(site.holding) == files_of(site.far_buffer) == FILES


def test_a_janitor_has_not_purged_what_is_not_in_the_mount_point(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.areas.endpoint import confirm

    keys = {"min_free": 0, "purge_after": 0}
    site.write(handoff=keys, endpoint={"confirm": "true"})
    site.put_all(FILES)
    assert handing.make_pass(site) == 0
    monkeypatch.setattr(confirm, "ask", lambda _, asked: [confirm.STORED] * len(asked))

    def janitor() -> int:
        settings = site.settings()
        section = settings.handoff[site.name]
        return runner.run_pass(JanitorWork(section), settings, section, runner.Options())

    with area(site.holding, mounted=False) as holding:
        with monkeypatch.context() as patch:
            at_call(patch, Housekeeping, "_remove", 2, holding.goes_away)
            assert janitor() == 75
        assert "PURGED" not in handing.rows(site)
        holding.comes_back()
        assert janitor() == 0
        assert set(handing.rows(site)) == {"PURGED"}
        assert files_of(site.holding) == {}


def test_a_source_to_which_a_file_is_released(
    finding: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding.put("a", b"one", finding.storage)
    finding.put("a", b"other")
    assert finding.run() == 1
    with area(finding.source, mounted=False) as source, finding.database():
        row = Quarantine.get()
        with monkeypatch.context() as patch, closing(Roots()) as roots:
            at_call(patch, Entry, "move_to", 1, source.goes_away)
            with pytest.raises(TryLater, match="is another directory"):
                Releases(finding.finder, roots).release(row)
        assert Quarantine.get().released_at is None
        assert tree(source.comes_back()) == {}
        with closing(Roots()) as roots:
            Releases(finding.finder, roots).release(Quarantine.get())
        assert tree(finding.source) == {"a": b"other"}
        assert tree(finding.quarantine) == {}


@pytest.mark.parametrize("how", ["hard", "symbolic", "copy"])
def test_a_tree_of_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    root, storage = tmp_path / "tree", tmp_path / "storage"
    root.mkdir()
    storage.mkdir()
    files = []
    for number, (rel, content) in enumerate(FILES.items()):
        path = storage / rel
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        relpath, _, filename = rel.rpartition("/")
        files.append(StoredFile(number, str(path), relpath, filename, len(content)))
    with started("link", storage, root=str(root), how=how) as plugin, area(root, False) as links:
        with monkeypatch.context() as patch:
            at_call(patch, place, "make_directories", 2, links.goes_away)
            with pytest.raises(NotReady, match="is another directory"):
                list(plugin.ingest(files))
        assert files_of(links.comes_back()) == {}
        assert [each.result.value for each in plugin.ingest(files)] == ["already"] * len(FILES)


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_that_a_killed_pass_moved_to_the_disk_that_went_away_is_found_there_or_named(
    settings: load.Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    taken: bool,
) -> None:
    finding = Finding(settings, tmp_path)
    finding.put("a", b"one")

    def kill(*_: Any) -> None:
        raise SystemExit

    with area(finding.storage, mounted=False) as storage:
        with monkeypatch.context() as patch:
            at_call(patch, Entry, "move_to", 1, storage.goes_away)
            patch.setattr(Tree, "sync_file_system", kill)
            with pytest.raises(SystemExit):
                finding.run()
        assert tree(storage.comes_back()) == {}
        if taken:
            (finding.storage / "a").unlink()
        assert finding.run() == 0
    said = "storage/a: was on its way there, and is neither there nor" in capsys.readouterr().err
    assert said == taken
    assert finding.rows() == ([] if taken else [("", "a", "STORED")])


def test_a_directory_of_holding_that_cannot_be_made_durable_holds_its_files_in_the_next_pass(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(handoff={"min_free": 0})
    site.put_all(FILES)

    def refuse(tree: Tree, directories: Sequence[str]) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), tree.path)

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "sync", refuse)
        assert handing.make_pass(site) == 1
    assert set(handing.rows(site)) == {"DELIVERED"}
    assert handing.make_pass(site) == 0
    assert set(handing.rows(site)) == {"HELD"}
    assert files_of(site.holding) == FILES
