"""Asking a plugin what its target holds."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.targets.plugin import Context, Misconfigured, NotReady, StoredFile
from dbbbatch.targets.pool import ask_plugin
from dbbbatch.targets.worker import Launch

Stored = Callable[..., list[StoredFile]]


def held(plugin: str, batches: Any, timeout: float = 60.0, **config: Any) -> list[Any]:
    context = Context("a", "here", "/", "/", timeout)
    log = logging.getLogger("dbbbatch")
    return list(ask_plugin(Launch(plugin, config, context), batches, log))


def test_each_file_is_answered_for(naughty: None, stored: Stored) -> None:
    first, second = stored("known.1", "other")
    assert held("naughty", [[first, second], [first]]) == [{1: True, 2: False}, {1: True}]


def test_plugin_that_cannot_be_asked_answers_none(stored: Stored) -> None:
    assert held("null", [stored("x")]) == [None]


def test_target_that_is_away_is_said(naughty: None, stored: Stored) -> None:
    with pytest.raises(NotReady, match="being moved"):
        held("naughty", [stored("x")], start="notready")


def test_wrong_configuration_is_said(naughty: None, stored: Stored) -> None:
    with pytest.raises(Misconfigured, match="wrong password"):
        held("naughty", [stored("x")], start="misconfigured")


def test_death_is_said(naughty: None, stored: Stored) -> None:
    with pytest.raises(NotReady, match=r"ended; it said: .*naughty\.py"):
        held("naughty", [stored("x")], start="segfault")
    with pytest.raises(NotReady, match=r"process ended$"):
        held("naughty", [stored("x")], start="vanish")


def test_link_answers_for_its_tree(storage: Path, stored: Stored, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    files = stored("x", "y")
    (tmp_path / "tree" / "x").hardlink_to(files[0].path)
    assert held("link", [files], root=str(tmp_path / "tree")) == [{1: True, 2: False}]
