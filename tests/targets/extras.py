"""Skip the tests of a target, with a reason, where its packages or its server are missing."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Where this is set, a test that cannot run fails.
STRICT = os.environ.get("DBB_CI_STRICT") == "1"


class _Untried(pytest.Module):
    """A module of tests that is not even imported."""

    reason = ""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(self.reason, allow_module_level=True)


def without(reason: str, *needed: str):
    """Return the hook that skips the modules beside a conftest unless these can be imported."""

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> object:
        if STRICT or all(map(_importable, needed)):
            return None
        module = _Untried.from_parent(parent, path=module_path)
        module.reason = reason
        return module

    return pytest_pycollect_makemodule


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def give_up(reason: str) -> None:
    """Skip the test, or fail it where nothing may be left untried."""
    if STRICT:
        pytest.fail(reason)
    pytest.skip(reason)
