"""Plugins are found by name, and their keys are checked."""

from pathlib import Path

import pytest

from dbbbatch.targets import registry
from dbbbatch.targets.plugin import Misconfigured, Plugin
from tests.targets.conftest import write_package


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_built_in_plugin_bears_its_name(name: str) -> None:
    plugin = registry.find(name)
    assert issubclass(plugin, Plugin)
    assert plugin.name == name


def test_unknown_plugin_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(Misconfigured, match="did you mean 'command'"):
        registry.find("comand")


def test_plugin_that_cannot_be_imported_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "absent", "no.such.module:Thing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Misconfigured, match="cannot be imported"):
        registry.find("absent")


def test_entry_point_that_is_no_plugin_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_package(tmp_path, "path", "pathlib:Path")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Misconfigured, match="no subclass"):
        registry.find("path")


def test_all_wrong_keys_are_told_at_once() -> None:
    problems = registry.plugin_problems("target.x", "link", {"rot": "/x", "how": "magic"})
    assert len(problems) == 3
    assert any("did you mean 'root'" in problem for problem in problems)


def test_right_keys_are_no_problem() -> None:
    assert registry.plugin_problems("target.x", "link", {"root": "/x"}) == []
