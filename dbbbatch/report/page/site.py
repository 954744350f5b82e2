"""A directory of pages that anybody may be reading while it is renewed.

Each file is replaced whole, and is complete without the others. Pages of nights come before the
overview that links to them, and are removed after it. So a reader, or the next report after a kill,
meets whole pages only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from datetime import date

from dbbbatch.errors import LockHeld, UsageError
from dbbbatch.files import names, replace
from dbbbatch.report.page import render
from dbbbatch.report.survey import Survey

#: The names of our files.
_PAGE_NAME = re.compile(r"index\.html|search\.js|night-(\d{4}-\d\d-\d\d)\.(?:html|js)", re.ASCII)

#: What is within the first bytes of each of our files, with the digest of what it shows.
_MARK = re.compile(rb"dbb-report\b(?: ([0-9a-f]{24}) )?")
_MARK_WITHIN = 80


def write_site(directory: str, seen: Survey) -> None:
    """Write or renew the pages in a directory; it is made if only it itself is missing.

    A page of a night that would say the same is left as it is. Where the nights are not known now,
    their pages stay.

    Parameters
    ----------
    directory : `str`
    seen : `dbbbatch.report.survey.Survey`

    Raises
    ------
    UsageError
        The directory cannot be made, or holds a file of somebody else with one of our names.
    LockHeld
        Another process writes to it.
    OSError
        A file cannot be written.
    """
    with contextlib.suppress(FileExistsError), _named_by_usage(directory):
        os.mkdir(directory, 0o755)
    with _locked(directory):
        there = set(_ours(directory))
        replace.remove_abandoned(directory)
        _renew(directory, "search.js", render.search_script())
        for name, content in _night_pages(directory, seen):
            _renew(directory, name, content)
        shown = _days(there) if seen.unknown else [night.day for night in seen.nights]
        _renew(directory, "index.html", render.overview(seen, shown))
        for name in there:
            if name.startswith("night-") and _day_of_page(name) not in shown:
                os.unlink(os.path.join(directory, name))


def _night_pages(directory: str, seen: Survey) -> Iterator[tuple[str, bytes]]:
    """Yield the files of nights that are to be written, by name."""
    days = [None, *(night.day for night in seen.nights), None]
    for number, night in enumerate(seen.nights):
        files = list(seen.files.of(night))
        page = render.NightPage(
            night=night,
            site=seen.health.site,
            over=night.ends <= seen.health.at,
            before=days[number + 2],
            after=days[number],
            unfinished=tuple(file for file in files if render.is_unfinished(file, night)),
        )
        name = f"night-{night.day}.html"
        if _digest_of(directory, name) != page.digest():
            yield name, page.html(seen.health.at)
        yield f"night-{night.day}.js", render.files_of_night(night.day, files)


def _renew(directory: str, name: str, content: bytes) -> None:
    """Write a file unless it is there already, with that content."""
    path = os.path.join(directory, name)
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_size == len(content):
            with open(path, "rb") as file:
                if file.read() == content:
                    return
    replace.replace_whole(path, content)


def _ours(directory: str) -> Iterator[str]:
    """Yield the names of our files; raise if one of these names is another's."""
    for name in os.listdir(directory):
        if _PAGE_NAME.fullmatch(name):
            path = os.path.join(directory, name)
            if os.path.islink(path) or not os.path.isfile(path) or not _mark_of(path):
                raise UsageError(
                    f"{names.printable(path)}: was not written by dbb-report, and is not "
                    "overwritten; give the pages a directory of their own"
                )
            yield name


def _mark_of(path: str) -> re.Match[bytes] | None:
    with open(path, "rb") as file:
        return _MARK.search(file.read(_MARK_WITHIN))


def _digest_of(directory: str, name: str) -> str:
    """Return the digest in a page of ours, or nothing."""
    try:
        mark = _mark_of(os.path.join(directory, name))
    except FileNotFoundError:
        return ""
    return mark[1].decode() if mark and mark[1] else ""


def _days(there: Iterable[str]) -> list[date]:
    """Return the days of the pages of nights, the newest first."""
    found = (_day_of_page(name) for name in there if name.endswith(".html"))
    return sorted(filter(None, found), reverse=True)


def _day_of_page(name: str) -> date | None:
    """Return the night of a file of ours; `None` if it has none."""
    found = _PAGE_NAME.fullmatch(name)
    try:
        return date.fromisoformat(found[1]) if found and found[1] else None
    except ValueError:
        return None


@contextlib.contextmanager
def _named_by_usage(directory: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        parent = names.printable(os.path.dirname(os.path.abspath(directory)))
        raise UsageError(f"{parent}: {error.strerror}") from None


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the directory's lock, where its file system has one; it dies with this process."""
    with _named_by_usage(os.path.join(directory, "index.html")):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                message = f"{names.printable(directory)}: another dbb-report writes to it"
                raise LockHeld(message) from None
        yield
    finally:
        os.close(descriptor)
