"""Where a file is now, at every site that uses the database, and what each table says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.database.bulk import read_moment
from dbbbatch.files import names


@dataclass(frozen=True)
class FileVersion:
    """A file as one table has it, with its status there.

    Attributes
    ----------
    where : `str`
        The site and section, or the storage area.
    detail : `str`
        Why it has this status.
    path : `str`
        Where it is now, as tables write names; '' if it is nowhere, or in a directory that only the
        configuration of another host knows.
    next_try_at : `datetime.datetime` or `None`
        When the next attempt is due; UTC.
    """

    where: str
    status: str
    size_bytes: int
    checksum: str
    detail: str = ""
    path: str = ""
    next_try_at: datetime | None = None


@dataclass(frozen=True)
class Ingest:
    """Where a file stands with a target, since when, and when the next attempt is due (UTC)."""

    status: str
    since: datetime
    next_try_at: datetime | None = None
    message: str = ""


@dataclass
class Whereabouts:
    """Where a file is.

    Attributes
    ----------
    path : `str`
        Relative, as tables write names.
    versions : `list` [`FileVersion`]
        At the handoff site, in storage, in quarantine, and what finders remember.
    targets : `dict` [`str`, `Ingest`]
        By name.
    """

    path: str
    versions: list[FileVersion] = field(default_factory=list)
    targets: dict[str, Ingest] = field(default_factory=dict)

    @property
    def places(self) -> list[str]:
        """The paths of what is there now, each once: those in storage first."""
        ranked = sorted(self.versions, key=lambda version: not version.where.startswith("/"))
        return list(dict.fromkeys(version.path for version in ranked if version.path))


@dataclass(frozen=True)
class Directories:
    """The directories of this configuration, by site and section."""

    settings: Settings | None

    @property
    def roots(self) -> list[str]:
        """Those to which paths are relative."""
        if self.settings is None:
            return []
        handoffs, finders = self.settings.handoff.values(), self.settings.finder.values()
        return [
            *(path for one in handoffs for path in (one.buffer, one.holding, one.endpoint.buffer)),
            *(path for one in finders for path in (one.source, one.storage)),
            *(one.storage for one in self.settings.target.values()),
        ]

    def below(self, site: str, label: str, key: str, relpath: str, filename: str) -> str:
        """Return the path of a file below a directory of a section, or '' if that is not known."""
        kind, _, name = label.partition(".")
        if self.settings is None or site != self.settings.site.name:
            return ""
        section = self.settings.sections(kind).get(name)
        root = getattr(section, key, "")
        return f"{names.to_text(root)}/{names.join(relpath, filename)}" if root else ""


def whereabouts(places: Sequence[tuple[str, str]], directories: Directories) -> list[Whereabouts]:
    """Return where files are.

    Parameters
    ----------
    places : sequence
        Relpath and filename of each, as in the tables.
    directories : `Directories`
    """
    return connect.read(lambda: [_whereabouts(*place, directories) for place in places])


def _whereabouts(relpath: str, filename: str, directories: Directories) -> Whereabouts:
    result = Whereabouts(names.join(relpath, filename))
    _add_handoff(result, rows_of("handoff_file", relpath, filename), directories)
    for row in rows_of("file", relpath, filename):
        there = row["status"] in ("STORED", "CORRUPT", "QUARANTINED")
        storage = names.to_text(row["storage"])
        result.versions.append(
            FileVersion(
                row["storage"],
                row["status"],
                row["size_bytes"],
                row["checksum"],
                row["error"] or "",
                f"{storage}/{result.path}" if there else "",
            )
        )
        _add_targets(result, row["id"])
    for row in rows_of("finder_left", relpath, filename, order="site, finder"):
        label, there = f"finder.{row['finder']}", row["verdict"] not in ("AWAITED", "GIVEN_UP")
        path = directories.below(row["site"], label, "source", relpath, filename) if there else ""
        shown = (row["verdict"], row["size_bytes"], "", row["message"], path)
        result.versions.append(FileVersion(f"{row['site']} {label}", *shown))
    _add_quarantine(result, relpath, filename)
    return result


#: Where a file of the handoff is by its status; one that is IGNORED may be in holding.
_ROOT_OF = {"FOUND": "buffer", "DELIVERED": "buffer", "HELD": "holding", "IGNORED": "buffer"}


def _add_handoff(
    result: Whereabouts, rows: Sequence[dict[str, Any]], directories: Directories
) -> None:
    for row in rows:
        label, status, held_as = f"handoff.{row['handoff']}", row["status"], row["held_as"]
        root = "holding" if status == "IGNORED" and held_as else _ROOT_OF.get(status, "")
        name = held_as if root == "holding" and held_as else row["filename"]
        path = directories.below(row["site"], label, root, row["relpath"], name) if root else ""
        was_held = held_as and status in ("HELD", "PURGED", "IGNORED")
        result.versions.append(
            FileVersion(
                f"{row['site']} {label}",
                status,
                row["size_bytes"],
                row["checksum"] or "",
                row["error"] or (f"held as {held_as}" if was_held else ""),
                path,
                read_moment(row["next_try_at"]),
            )
        )


def _add_targets(result: Whereabouts, file: int) -> None:
    for name, status, since, due, message in connect.execute(
        "SELECT target.name, state.status, state.changed_at, state.next_try_at, state.message"
        " FROM ingest_state AS state JOIN target ON target.id = state.target_id"
        " WHERE state.file_id = ? ORDER BY target.name",
        (file,),
    ).fetchall():
        result.targets[name] = Ingest(status, read_moment(since), read_moment(due), message)


def _add_quarantine(result: Whereabouts, relpath: str, filename: str) -> None:
    for row in rows_of("quarantine", relpath, filename):
        if row["released_at"] is not None:
            continue
        # The row of a handoff is about the same file, but lacks its path.
        where, size = f"{row['site']} {row['label']}", row["size_bytes"]
        result.versions[:] = [
            version
            for version in result.versions
            if (version.where, version.status, version.size_bytes) != (where, "QUARANTINED", size)
        ]
        shown = (size, row["checksum"] or "", row["reason"], row["path"])
        result.versions.append(FileVersion(where, "QUARANTINED", *shown))


def rows_of(table: str, relpath: str, filename: str, order: str = "id") -> list[dict[str, Any]]:
    """Return the rows of a table that are about a relative path, by the names of columns."""
    found = connect.execute(
        f"SELECT * FROM {table} WHERE relpath = ? AND filename = ? ORDER BY {order}",
        (relpath, filename),
    )
    columns = [column[0] for column in found.description]
    return [dict(zip(columns, row, strict=True)) for row in found.fetchall()]
