"""What the tests of the handoff share: a site whose rows are looked at, and time that passes."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dbbbatch.config import toml
from dbbbatch.database import connect
from dbbbatch.files import names
from dbbbatch.passes import runner
from dbbbatch.passes.handoff.work import HandoffWork
from tests.support.scripts import TOP
from tests.support.site import Site

#: Names that a careless program would execute, split, mistake for an option or refuse.
HOSTILE: Sequence[str | bytes] = (
    "night 1/a file.fits",
    'night 1/it\'s "quoted".fits',
    "$(touch x)/`touch x`;touch x",
    "-rf/-n",
    "#hash/;semicolon",
    "new\nline/touch x\n",
    "back\\slash/\\n",
    "glob/*?[a]{b,c}",
    b"bytes/\xff\xfe\x80",
    "top",
)

#: A transfer command that works, as a probe shows, and can send none of these files.
REFUSING = {
    "transfer": "sh -c 'case $* in */.dbb~probe-*) exec cp -p -- \"$@\"; esac; exit 1' sh"
    " {batch} {dest}"
}


class Arriving(NamedTuple):
    """A file as a session expects it."""

    raw: bytes
    size_bytes: int
    digest: str


def make_pass(site: Site, **options: Any) -> int:
    """Make a pass in this process, so that a test may replace parts of it; give its exit code."""
    settings = site.settings()
    section = settings.handoff[site.name]
    return runner.run_pass(HandoffWork(section), settings, section, runner.Options(**options))


def rows(site: Site, columns: str = "status", table: str = "handoff_file") -> list[Any]:
    """Return columns of a table, in any order; single ones bare."""
    connect.connect(site.settings().database)
    try:
        found = connect.execute(f"SELECT {columns} FROM {table}").fetchall()
    finally:
        connect.disconnect()
    return [row[0] if len(row) == 1 else tuple(row) for row in found]


def change(site: Site, sql: str, *values: Any) -> None:
    """Change the tables, past what would have changed them."""
    connect.connect(site.settings().database)
    connect.write(connect.execute, sql, values)
    connect.disconnect()


def statuses(site: Site) -> dict[str, str]:
    """Return the status of each file by its relative path (the last version of it)."""
    found = rows(site, "relpath, filename, status, id")
    return {
        names.join(relpath, filename): status
        for relpath, filename, status, _ in sorted(found, key=lambda row: row[3])
    }


def wait_over(site: Site) -> None:
    """Let the wait before the next attempt be over."""
    change(site, "UPDATE handoff_file SET next_try_at = NULL")


def contents(files: Sequence[str | bytes]) -> dict[str, bytes]:
    """Return files of these names, their content is their name."""
    return {os.fsdecode(rel): os.fsencode(rel) for rel in files}


def receiving(root: Path, config: Path | None = None) -> str:
    """Return a template for `remote` by which `dbb receive` answers, as for a key of sshd.

    Its staging and buffer are in ``root``; its configuration is written beside that, unless told.
    """
    document = {
        "site": {"name": "archive", "state": root / "state"},
        "receive.latiss": {"buffer": root / "buffer", "staging": root / "staging"},
    }
    config = config or root.with_name(f"{root.name}-receive.toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(toml.toml_document(document))
    command = [sys.executable, str(TOP / "bin" / "dbb"), "-c", str(config), "receive", "latiss"]
    return f"env SSH_ORIGINAL_COMMAND={{command}} {shlex.join(command)}"
