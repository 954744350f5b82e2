"""How the files of a handoff are sent, where that makes no difference to what a test expects."""

from __future__ import annotations

import pytest

from tests.support.site import Site


@pytest.fixture(params=["command", "stream"])
def by_each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send files by a command, and once more by the built-in stream."""
    if request.param == "stream":
        monkeypatch.setattr(Site, "by_stream", True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what tells nothing new: no database sees how a file is sent."""
    items[:] = [item for item in items if not _tells_nothing_new(item)]


def _tells_nothing_new(item: pytest.Item) -> bool:
    params = getattr(getattr(item, "callspec", None), "params", {})
    return params.get("by_each_way") == "stream" and params.get("backend") != "sqlite"
