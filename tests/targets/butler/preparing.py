"""Prepares repositories as ``dbb butler prepare`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def prepared(
    repo: Path | str, camera: str, *, translators: Sequence[str] = (), **more: Any
) -> list[str]:
    """Make or complete a repository, and return what was done."""
    from dbbbatch.config import fields
    from dbbbatch.targets.butler.prepare import prepare
    from dbbbatch.targets.butler.settings import Gen3Settings

    settings = fields.defaults(Gen3Settings, repo=str(repo), translators=translators)
    return list(prepare(settings, camera, **more))
