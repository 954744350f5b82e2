"""A finder killed while workers copy for it is made good by one clean pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbbbatch.config import toml
from tests.killing.sweep import Swept
from tests.killing.test_finder import CODES, command, look, sites
from tests.support.database import Databases
from tests.support.engine import Cluster
from tests.support.site import Site

pytestmark = pytest.mark.promise


def test_a_finder_whose_files_workers_copy(
    sweep: Callable[..., Swept], databases: Databases, cluster: Cluster
) -> None:
    """What is beside the destinations in the end is nothing, whether a worker goes on or not."""
    make = sites(databases, "sqlite", apart=True)

    @contextmanager
    def with_workers(directory: Path) -> Iterator[Site]:
        with make(directory) as site:
            text = toml.toml_document({"executor": cluster.section()})
            site.config.write_text(site.config.read_text() + text)
            yield site

    sweep(with_workers, command, look, exit_codes=CODES, every=130)
