"""Directories that may not lie in each other are refused by the configuration."""

import pytest

from dbbbatch.config import load, toml
from dbbbatch.targets import registry


@pytest.fixture
def problems(tmp_path):
    """Return what is wrong with a site of two handoffs, two finders and a tree of links.

    All on this machine; directories are changed by "SECTION key".
    """

    def problems(changes):
        tables = {
            "site": {"name": "s", "state": "/state"},
            "database": {"url": "sqlite:////db/dbb.sqlite"},
        }
        for n in "ab":
            tables[f"handoff.{n}"] = {
                key: f"/{n}/{key}" for key in ("buffer", "holding", "quarantine")
            }
            tables[f"handoff.{n}.endpoint"] = {
                "buffer": f"/{n}/far/buffer",
                "staging": f"/{n}/far/staging",
                "transfer": "cp {batch} {dest}",
            }
            tables[f"finder.{n}"] = {
                "source": f"/{n}/far/buffer",
                "storage": f"/{n}/far/storage",
                "quarantine": f"/{n}/far/quarantine",
            }
            tables[f"receive.{n}"] = {
                "buffer": f"/{n}/far/buffer",
                "staging": f"/{n}/arrival/staging",
            }
        tables["target.t"] = {"storage": "/elsewhere/storage", "plugin": "link"}
        tables["target.t.config"] = {"root": "/root"}
        for place, value in changes.items():
            section, key = place.split()
            tables[section][key] = value
        path = tmp_path / "dbb.toml"
        path.write_text(toml.toml_document(tables))
        _, found = load.examine_file(path, registry)
        return [problem.removeprefix(f"{path}: ") for problem in found]

    return problems


def test_directories_side_by_side_are_no_problem(problems):
    assert problems({}) == []


FILES = [
    "/a/buffer",
    "/a/holding",
    "/a/quarantine",
    "/a/far/buffer",
    "/a/far/staging",
    "/a/far/storage",
    "/a/far/quarantine",
    "/elsewhere/storage",
]


@pytest.mark.parametrize("below", ["", "/below"])
@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("place", ["site state", "database url", "target.t.config root"])
def test_what_is_ours_may_not_lie_among_files(problems, place, path, below):
    section, key = place.split()
    (problem,) = problems({place: f"sqlite:///{path}{below}" if key == "url" else path + below})
    assert problem.startswith(f"[{section}] {key} ({path}{below}): must not lie in [")


def test_a_database_is_found_among_files_however_its_path_is_written(problems):
    assert len(problems({"database url": "sqlite://///a/x/../buffer/dbb.sqlite"})) == 1


def test_a_database_in_a_state_directory_among_files_is_said_once(problems):
    changes = {"site state": "/a/buffer/s", "database url": "sqlite:////a/buffer/s/dbb.sqlite"}
    assert len(problems(changes)) == 1


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("handoff.a.endpoint buffer", "/a/buffer"),
        ("handoff.a.endpoint buffer", "/a/holding"),
        ("handoff.a.endpoint staging", "/a/buffer/below"),
        ("handoff.a.endpoint staging", "/b/buffer"),
        ("handoff.a.endpoint staging", "/a/far/buffer/below"),
        ("handoff.a.endpoint staging", "/a/far/storage"),
        ("handoff.a holding", "/a/far/buffer"),
        ("handoff.a holding", "/a/far"),
        ("handoff.a buffer", "/a/quarantine/below"),
        ("handoff.a quarantine", "/b/holding"),
        ("handoff.a buffer", "/b/far/storage"),
        ("handoff.a buffer", "/b"),
        ("finder.a source", "/b/far/buffer"),
        ("finder.a source", "/b/far/buffer/below"),
        ("finder.a source", "/b/far/storage"),
        ("finder.a source", "/b/holding"),
        ("finder.a source", "/b/buffer"),
        ("finder.a storage", "/b/far/buffer"),
        ("finder.a quarantine", "/b/far/storage/below"),
        ("receive.a staging", "/b/arrival/staging"),
        ("receive.a staging", "/b/far/buffer/below"),
        ("receive.a staging", "/b/holding"),
        ("receive.a staging", "/b"),
        ("receive.a staging", "/a/far"),
        ("receive.a buffer", "/b/quarantine"),
        ("receive.a buffer", "/b/arrival/staging"),
    ],
)
def test_directories_that_would_mix_are_refused(problems, place, path):
    section, key = place.split()
    found = problems({place: path})
    assert any(f"[{section}] {key} ({path})" in problem for problem in found)


def test_a_far_end_that_is_reached_by_a_command_has_directories_of_its_own(problems):
    changes = {"handoff.a.endpoint remote": "ssh far {command}"}
    for key in ("buffer", "staging"):
        changes[f"handoff.a.endpoint {key}"] = f"/a/holding/{key}"
    assert problems(changes) == []


def test_what_one_handoff_delivers_here_may_be_the_buffer_of_the_next(problems):
    changes = {"handoff.a.endpoint buffer": "/b/buffer", "finder.a source": "/c/source"}
    assert problems(changes) == []


def test_two_receivers_may_place_in_one_buffer(problems):
    assert problems({"receive.a buffer": "/b/far/buffer"}) == []


def test_two_finders_may_share_storage(problems):
    assert problems({"finder.a storage": "/b/far/storage"}) == []


def test_two_finders_may_read_logs_in_one_directory(problems):
    changes = {}
    for n in "ab":
        changes |= {f"finder.{n} source": "/logs", f"finder.{n} search": "rsync-logs"}
        changes |= {f"finder.{n} standard": "none"}
    assert problems(changes) == []


def test_a_quarantine_among_the_logs_is_refused(problems):
    changes = {"finder.a search": "rsync-logs", "finder.a standard": "none"}
    found = problems({**changes, "finder.a quarantine": "/a/far/buffer/20261124"})
    assert any("[finder.a] source" in problem for problem in found)
