"""Fixtures that the tests of several passes share."""

from pathlib import Path

import pytest

from dbbbatch import config
from dbbbatch.keys import defaults


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> config.Settings:
    """Give the settings of a site without sections, on a database of its own."""
    return config.Settings(
        path=tmp_path / "dbb.toml",
        site=defaults(config.Site, name="archive", state=str(tmp_path / "state")),
        database=defaults(config.Database, url=database_url, patience=0.2),
        handoff={},
        finder={},
        target={},
    )
