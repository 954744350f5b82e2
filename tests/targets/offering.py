"""Offers files to a plugin as the ingester's child process does, but in this process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbbbatch.targets import registry
from dbbbatch.targets.plugin import Context, Outcome, Plugin, StoredFile


@contextmanager
def started(name: str, storage: Path, /, **config: Any) -> Iterator[Plugin]:
    """Return a plugin that was configured, checked and started."""
    plugin_type = registry.find(name)
    context = Context("here", "site", str(storage), str(storage / "state"), 60.0)
    plugin = plugin_type(registry.read_settings(plugin_type, config, "target.x"), context)
    try:
        plugin.start()
        yield plugin
    finally:
        plugin.close()


def stored(*paths: Path, storage: Path | None = None, **more: Any) -> list[StoredFile]:
    """Describe files as the ingester would."""
    files = []
    for number, path in enumerate(paths, start=1):
        root = storage or path.parent
        relpath = os.path.relpath(path.parent, root)
        files.append(
            StoredFile(
                number,
                str(path),
                "" if relpath == "." else relpath,
                path.name,
                path.stat().st_size if path.exists() else 0,
                **more,
            )
        )
    return files


def offered(plugin: Plugin, *paths: Path, **more: Any) -> list[Outcome]:
    """Ingest files and give the outcomes in the order of the files; each must have one."""
    outcomes = {outcome.number: outcome for outcome in plugin.ingest(stored(*paths, **more))}
    assert sorted(outcomes) == list(range(1, len(paths) + 1))
    return [outcomes[number] for number in sorted(outcomes)]


def results(outcomes: list[Outcome]) -> list[str]:
    """Return their results alone."""
    return [outcome.result.value for outcome in outcomes]


def digest(path: Path) -> str:
    """Return what tells whether a file was changed."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
