"""Files that pass through several sites, and handoffs that share an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.config import toml
from tests.support.scripts import Ran, run_script
from tests.support.site import SENTINEL, tree

pytestmark = pytest.mark.promise

KEPT = {"night/a": b"first", "night/b": b"second"}

Run = Callable[..., Ran]


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Callable[[str, Mapping[str, Any]], Run]:
    """Write the configuration of one of several sites that share a database."""

    def make(name: str, tables: Mapping[str, Any]) -> Run:
        root = tmp_path / name
        document = {
            "site": {"name": name, "state": root / "state"},
            "database": {"url": database_url},
            **tables,
        }
        for table in (document["site"], *tables.values()):
            for key, value in table.items():
                if isinstance(value, Path):
                    value.mkdir(parents=True, exist_ok=True)
                    if key == "storage":
                        (value / SENTINEL).touch()
        (root / "dbb.toml").write_text(toml.toml_document(document))
        env = {"DBB_CONFIG": str(root / "dbb.toml")}
        return lambda script, *arguments: run_script(script, *arguments, env=env)

    return make


def handoff(root: Path, name: str, buffer: Path, to: Path, **endpoint: Any) -> dict[str, Any]:
    """Return the tables of a handoff at a site, to the endpoint in another directory."""
    near = {"buffer": buffer, "holding": root / "holding", "quarantine": root / "quarantine"}
    far = {"buffer": to / "arriving", "staging": to / "staging", **endpoint}
    return {f"handoff.{name}": {**near, "min_free": 0}, f"handoff.{name}.endpoint": far}


def finder(root: Path) -> dict[str, Any]:
    keys = {"source": root / "arriving", "storage": root / "storage", "min_free": 0}
    return {"finder.in": {**keys, "quarantine": root / "finder-quarantine"}}


def put(directory: Path, files: Mapping[str, bytes]) -> None:
    for rel, content in files.items():
        (directory / rel).parent.mkdir(parents=True, exist_ok=True)
        (directory / rel).write_bytes(content)


@pytest.mark.parametrize(("how", "backend"), [("hard", "postgresql"), ("copy", "sqlite")])
def test_a_site_in_the_middle_stores_files_and_sends_them_on(
    tmp_path: Path, site: Callable[[str, Mapping[str, Any]], Run], how: str
) -> None:
    summit, base, archive = (tmp_path / name for name in ("summit", "base", "archive"))
    first = site("summit", handoff(summit, "out", summit / "buffer", base))
    onward = {
        "target.onward": {"storage": base / "storage", "plugin": "link"},
        "target.onward.config": {"root": base / "onward", "onward": True, "how": how},
    }
    relay = handoff(base, "onward", base / "onward", archive)
    second = site("base", {**finder(base), **onward, **relay})
    third = site("archive", finder(archive))
    put(summit / "buffer", KEPT)
    steps = [
        (first, "dbb-handoff"),
        *((second, script) for script in ("dbb-finder", "dbb-ingester", "dbb-handoff")),
        (third, "dbb-finder"),
    ]
    for _ in range(2):
        assert [run(script) for run, script in steps] == [(0, "", "")] * len(steps)
    for stored in (base / "storage", archive / "storage"):
        assert tree(stored) == KEPT
    assert tree(summit / "holding") == tree(base / "holding") == KEPT
    assert not any(map(tree, (summit / "buffer", base / "onward", archive / "arriving")))
    # What is taken away is not missed.
    assert second("dbb-auditor", "--share", "1") == (0, "", "")
    # One database knows the whole way, in the order of time.
    ran = second("dbb", "history", "night/a", "--json")
    where = ["summit handoff.out", "finder.in", "base target.onward", "base handoff.onward"]
    for event in where:
        assert event in ran.out
    assert str(archive / "storage") in ran.out


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_site_in_the_middle_moves_files_on(
    tmp_path: Path, site: Callable[[str, Mapping[str, Any]], Run]
) -> None:
    summit, base, archive = (tmp_path / name for name in ("summit", "base", "archive"))
    first = site("summit", handoff(summit, "out", summit / "buffer", base))
    second = site("base", handoff(base, "relay", base / "arriving", archive))
    put(summit / "buffer", KEPT)
    for run in (first, second, first, second):
        assert run("dbb-handoff") == (0, "", "")
    assert tree(archive / "arriving") == tree(base / "holding") == tree(summit / "holding") == KEPT
    assert not any(map(tree, (summit / "buffer", base / "arriving")))


@pytest.mark.parametrize("backend", ["sqlite"])
def test_many_handoffs_share_an_endpoint(
    tmp_path: Path, site: Callable[[str, Mapping[str, Any]], Run]
) -> None:
    archive = tmp_path / "archive"
    runs = []
    for number, name in enumerate(("one", "two", "three")):
        root = tmp_path / name
        # Two have handoffs of one name; the third has one of the site's name.
        label = "out" if number < 2 else "one"
        runs.append(site(name, handoff(root, label, root / "buffer", archive, transfer="")))
        own = {f"{name}/a": name.encode()}
        put(root / "buffer", {**own, "same": b"the same", "other": name.encode()})
    take = site("archive", {"finder.in": {**finder(archive)["finder.in"], "alternative": "delete"}})
    assert [run("dbb-handoff").code for run in runs] == [0, 0, 0]
    expected = {"one/a": b"one", "two/a": b"two", "three/a": b"three", "same": b"the same"}
    assert tree(archive / "arriving") == {**expected, "other": b"one"}
    # With other content a name waits, and the finder keeps what it cannot store for a person.
    assert tree(tmp_path / "two" / "buffer") == {"other": b"two"}
    assert take("dbb-finder").code == 0
    assert tree(archive / "storage") == {**expected, "other": b"one"}
    for name, run in zip(("two", "three"), runs[1:], strict=True):
        label = "handoff.out" if name == "two" else "handoff.one"
        assert run("dbb", "retry", label, "--match", "*").code == 0
        assert run("dbb-handoff").code == 0
        take("dbb-finder")
        assert not tree(tmp_path / name / "buffer")
    assert {b"two", b"three"} <= set(tree(archive / "finder-quarantine").values())
    assert tree(archive / "storage") == {**expected, "other": b"one"}
    assert not tree(archive / "staging")
