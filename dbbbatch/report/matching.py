"""Which files a person means: by a name, a stem, a glob, a part of a path, or a night.

Names and directories are looked up in indexes, whatever the history. Only a part of a name has
none: for that the newest rows are read, up to a number and for a few seconds.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dbbbatch.database import connect
from dbbbatch.database.models.file import Name
from dbbbatch.files import names, place
from dbbbatch.report.queries import keys_of

#: Files that are looked for at most; those that are not shown are only counted.
_MOST_FOUND = 10_000

#: Rows of a table that are read for a part of a name, how many at a time, steps in an index at a
#: time, and seconds for all.
_NEWEST = 200_000
_READ_AT_ONCE = 5000
_STEPS_AT_ONCE = 1000
_TIME_LIMIT = 5.0

#: Directories that are looked into one by one for the begin of a name; if more may have the files,
#: the names of all are looked up together.
_LOOKED_INTO = 100

#: Similar names that are shown, and names of each source that are compared.
_NEAR = 5
_COMPARED = 500

_NIGHT = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)")

#: The tables that have files, each with an index of (filename, relpath) or the like.
_WITH_FILES = ("file", "handoff_file", "quarantine", "finder_left")

#: Tables whose rows are found by directory, and the columns before it in their index.
_OWNERS = {
    "file": ("storage",),
    "handoff_file": ("site", "handoff"),
    "finder_left": ("site", "finder"),
}

#: After every name that begins like one.
_LAST = "\U0010ffff"

#: A table, and the values of its owner's columns.
_Owner = tuple[str, tuple[str, ...]]


@dataclass
class Matches:
    """The files that some patterns mean.

    Attributes
    ----------
    places : `list` [ `tuple` [ `str`, `str` ] ]
        Relpath and filename, as in the tables.
    more : `int`
        How many further files match.
    at_least : `bool`
        There may be still more.
    newest : `int`
        How many of the newest rows were searched for a part of a name; 0 if nothing was left out.
    near : `list` [ `str` ]
        Similar names, if nothing matches.
    """

    places: list[Name] = field(default_factory=list)
    more: int = 0
    at_least: bool = False
    newest: int = 0
    near: list[str] = field(default_factory=list)


def matching(patterns: Sequence[str], roots: Iterable[str], limit: int) -> Matches:
    """Return the files that patterns mean.

    Parameters
    ----------
    patterns : sequence of `str`
        Each a path below one of `roots`, a relative path, a name or its begin, a glob, a night
        (2026-11-28 or 20261128), or a part of a path; as in the file system or in the database.
        What is a name is not also taken for a part of one.
    roots : iterable of `str`
        The directories to which paths are relative: buffers, holding and storage areas.
    limit : `int`
        How many files to return.
    """
    tops = sorted(roots, key=len, reverse=True)
    return connect.long_read(lambda: _Search(limit).run(patterns, tops))


class _Search:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[Name, None] = {}
        self._until = time.monotonic() + _TIME_LIMIT
        self._read = 0
        self._left_out = False
        self._known: dict[str, dict[str, list[_Owner]]] = {}

    def run(self, patterns: Sequence[str], roots: Sequence[str]) -> Matches:
        near: list[str] = []
        for pattern in patterns:
            before = len(self._found)
            self._search(pattern, roots)
            if len(self._found) == before and not self._full:
                near += self._near(pattern)
        places = list(self._found)
        return Matches(
            places[: self._limit],
            max(0, len(places) - self._limit),
            self._full,
            self._read if self._left_out else 0,
            list(dict.fromkeys(near)),
        )

    def _search(self, pattern: str, roots: Sequence[str]) -> None:
        before = len(self._found)
        rel = _below_root(pattern, roots)
        for spelling in _spellings(rel):
            self._by_name(spelling, pattern)
        if len(self._found) > before:
            return
        if night := _NIGHT.fullmatch(rel):
            days = {"-".join(night.groups()), "".join(night.groups())}
            self._by_directory(lambda path: not days.isdisjoint(path.split("/")))
            if len(self._found) == before:
                self._by_part(lambda path: any(day in path for day in days))
        elif re.search(r"[*?[]", rel):
            self._by_glob(rel)
        else:
            for spelling in _spellings(rel.rstrip("/")):
                self._by_begin(spelling)
            if len(self._found) == before:
                texts = _spellings(rel)
                self._by_part(lambda path: any(text in path for text in texts))

    @property
    def _full(self) -> bool:
        return len(self._found) >= _MOST_FOUND

    @property
    def _late(self) -> bool:
        return time.monotonic() > self._until

    def _add(self, places: Iterable[Sequence[str]]) -> None:
        for relpath, filename in places:
            if self._full:
                return
            self._found[relpath, filename] = None

    def _by_name(self, text: str, given: str) -> None:
        """Add the files of a name, also of a version in holding or of a path in quarantine."""
        relpath, filename = names.split(text)
        before = len(self._found)
        for name in dict.fromkeys((filename, place.without_version(filename))):
            for table in _WITH_FILES:
                rows = _asked(
                    f"SELECT relpath, filename FROM {table} WHERE filename = ?"
                    + (" AND relpath = ?" if relpath and not relpath.startswith("/") else "")
                    + f" LIMIT {_MOST_FOUND}",
                    [name, relpath] if relpath and not relpath.startswith("/") else [name],
                )
                if relpath.startswith("/"):
                    # Below a directory that this configuration does not know.
                    path = names.join(relpath, name)
                    rows = [row for row in rows if path.endswith(f"/{names.join(*row)}")]
                self._add(sorted(map(tuple, rows)))
            if len(self._found) > before:
                return
        if given.startswith("/"):
            self._add(
                _asked(
                    "SELECT relpath, filename FROM quarantine WHERE path = ?"
                    " AND released_at IS NULL",
                    [names.to_text(given)],
                )
            )

    def _by_begin(self, text: str) -> None:
        """Add the files whose name, or whose path, begins like a text, or of such a directory."""
        relpath, begin = names.split(text)
        before = len(self._found)
        if not relpath:
            for table in _WITH_FILES:
                self._add(
                    _asked(
                        f"SELECT relpath, filename FROM {table} WHERE filename >= ?"
                        f" AND filename < ? ORDER BY filename LIMIT {_MOST_FOUND}",
                        [begin, begin + _LAST],
                    )
                )
            if len(self._found) > before:
                return
        self._by_directory(lambda path: f"/{text}/" in f"/{path}/")
        if relpath:
            self._by_directory(lambda path: path == relpath, begin)

    def _by_glob(self, glob: str) -> None:
        above, slash, last = glob.rpartition("/")
        begin = re.split(r"[*?[]", last)[0]

        def matches(path: str) -> bool:
            return _fits(path if slash else names.split(path)[1], glob)

        def is_above(path: str) -> bool:
            return _fits(path, above)

        prefix = re.split(r"[*?[]", above)[0]
        prefix = prefix if prefix.isascii() and "\\" not in prefix else ""
        if not slash and not begin:
            self._by_part(matches)
            return
        for text in _spellings(begin):
            if not slash or (begin and self._are_many(is_above, prefix)):
                self._by_names(text, matches)
            else:
                self._by_directory(is_above, text, matches, prefix)
        if slash:  # an asterisk also stands for a slash: the begin may be that of a directory
            self._by_directory(
                lambda path: _fits(path, f"{above}/{begin}*"), matches=matches, prefix=prefix
            )

    def _by_names(self, begin: str, matches: Callable[[str], bool]) -> None:
        """Add the files whose names begin like a text and whose paths match, last names first."""
        for table in _WITH_FILES:
            rows = _asked(
                f"SELECT relpath, filename FROM {table} WHERE filename >= ?"
                f" AND filename < ? ORDER BY filename DESC LIMIT {_NEWEST}",
                [begin, begin + _LAST],
            )
            if len(rows) == _NEWEST:
                self._left_out, self._read = True, max(self._read, _NEWEST)
            self._add(row for row in rows if matches(names.join(*row)))

    def _are_many(self, wanted: Callable[[str], bool], prefix: str) -> bool:
        return sum(wanted(path) for path in self._directories(prefix)) > _LOOKED_INTO

    def _by_directory(
        self,
        wanted: Callable[[str], bool],
        begin: str = "",
        matches: Callable[[str], bool] = bool,
        prefix: str = "",
    ) -> None:
        """Add the files of directories, whose names begin like a text and whose paths match.

        All wanted directories begin with `prefix`.
        """
        read = 0
        directories = self._directories(prefix)
        for relpath, (table, owner) in (
            (path, whose) for path in filter(wanted, directories) for whose in directories[path]
        ):
            if self._full:
                return
            if read >= _NEWEST or self._late:
                self._left_out, self._read = True, max(self._read, read)
                break
            which = " AND ".join(f"{column} = ?" for column in _OWNERS[table])
            rows = _asked(
                f"SELECT relpath, filename FROM {table} WHERE {which} AND relpath = ?"
                f" AND filename >= ? AND filename < ? ORDER BY filename LIMIT {_MOST_FOUND}",
                [*owner, relpath, begin, begin + _LAST],
            )
            read += len(rows)
            self._add(row for row in rows if matches(names.join(*row)))
        waiting = _asked(
            "SELECT relpath, filename FROM quarantine WHERE released_at IS NULL"
            f" ORDER BY relpath, filename LIMIT {_NEWEST}"
        )
        self._add(
            row
            for row in waiting
            if wanted(row[0]) and row[1].startswith(begin) and matches(names.join(*row))
        )

    def _by_part(self, matches: Callable[[str], bool]) -> None:
        """Add files whose path matches, of those directories that do, and of the newest rows."""
        self._by_directory(matches)
        read = 0
        for rows in self._newest():
            self._add(row for row in rows if matches(names.join(*row)))
            read += len(rows)
            if self._full:
                return
        self._read = max(self._read, read)

    def _newest(self) -> Iterator[list[Any]]:
        """Yield the newest rows of each table, as many as there is time for."""
        for table in _WITH_FILES:
            if table == "finder_left":
                rows = _asked(f"SELECT relpath, filename FROM finder_left LIMIT {_NEWEST}")
                self._left_out |= len(rows) == _NEWEST
                yield rows
                continue
            ((newest,),) = _asked(f"SELECT COALESCE(MAX(id), 0) FROM {table}")
            read, after = 0, newest
            while after > 0 and read < _NEWEST and not self._late:
                rows = _asked(
                    f"SELECT relpath, filename FROM {table} WHERE id > ? AND id <= ?"
                    " ORDER BY id DESC",
                    [after - _READ_AT_ONCE, after],
                )
                after -= _READ_AT_ONCE
                read += len(rows)
                yield rows
            self._left_out |= after > 0

    def _directories(self, prefix: str = "") -> dict[str, list[_Owner]]:
        """Return the directories that begin like this, and whose they are, last ones first.

        Each costs a step in an index. Those that there is no time for are left out, and their files
        may be.
        """
        if prefix not in self._known:
            found = self._known[prefix] = defaultdict(list)
            for table, columns in _OWNERS.items():
                for owner in keys_of(table, columns):
                    for path in self._below(table, owner, prefix):
                        found[path].append((table, owner))
        return self._known[prefix]

    def _below(self, table: str, owner: tuple[str, ...], prefix: str) -> Iterator[str]:
        which = " AND ".join(f"{column} = ?" for column in _OWNERS[table])
        which += " AND relpath >= ?"
        begin = 'CAST(? AS TEXT) COLLATE "C"' if connect.on_postgresql() else "?"
        steps = (
            f"WITH RECURSIVE below (path) AS (SELECT {begin} UNION ALL SELECT (SELECT relpath"
            f" FROM {table} WHERE {which} AND relpath < below.path ORDER BY relpath DESC LIMIT 1)"
            " FROM below WHERE below.path IS NOT NULL) SELECT path FROM below"
            f" WHERE path IS NOT NULL LIMIT {_STEPS_AT_ONCE}"
        )
        after = prefix + _LAST
        while rows := _asked(steps, [after, *owner, prefix])[1:]:
            for (after,) in rows:
                yield after
            if self._late:
                self._left_out = True
                return

    def _near(self, pattern: str) -> list[str]:
        """Return similar names, among those next to a name in the indexes and among the newest."""
        text = names.to_text(names.split(pattern.rstrip("/"))[1])
        known: dict[str, None] = {}
        for table in _WITH_FILES:
            for begin in (text, text[: (len(text) + 1) // 2], text[:1]):
                for order, way in (("", ">="), ("DESC", "<")):
                    rows = _asked(
                        f"SELECT filename FROM {table} WHERE filename {way} ?"
                        f" ORDER BY filename {order} LIMIT {_COMPARED // 10}",
                        [begin],
                    )
                    known.update((row[0], None) for row in rows)
        for table in ("file", "handoff_file"):
            rows = _asked(f"SELECT filename FROM {table} ORDER BY id DESC LIMIT {_COMPARED}")
            known.update((row[0], None) for row in rows)
        for path in islice(self._directories(), _COMPARED):
            known.update((part, None) for part in path.split("/") if part)
        return difflib.get_close_matches(text, known, _NEAR)


def _fits(path: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(names.readable(path), glob)


def _below_root(name: str, roots: Iterable[str]) -> str:
    for root in roots:
        if name.startswith(root + "/"):
            return name[len(root) + 1 :]
    return name.removeprefix("./")


def _spellings(name: str) -> list[str]:
    """Return what a name may be in the tables: written as there, or as in the file system."""
    found = [names.to_text(name)]
    if name.encode("utf-8", "replace").decode() == name:
        found.append(name)
    return list(dict.fromkeys(found))


def _asked(sql: str, values: Sequence[Any] = ()) -> list[Any]:
    return list(connect.execute(sql, values).fetchall())
