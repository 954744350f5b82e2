"""Whether files are stored: the question of one site's janitor, and the answer of the other site.

The question is lines of JSON on stdin: a header with a nonce and the names of targets, then for
each file its relpath, filename (as in the tables), size in bytes and checksum. Each answer is a
line that begins with the nonce, so that a banner does no harm: the number of the file and a word,
in the order of the question; after the last one "end" and their count. Anything else, or an exit
code other than 0, is no answer.

A header with "history" asks what happened to files instead: see `dbbbatch.report.remote`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from dbbbatch.areas.endpoint.transfer import endpoint_address
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Handoff
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File, FileChecksum, FileRow, Name
from dbbbatch.database.models.statuses import FileStatus
from dbbbatch.errors import ConfigError, TryLater, UsageError
from dbbbatch.files import checksum, names
from dbbbatch.files.batches import batched
from dbbbatch.process import run, template

#: The word of a file in storage that has the same size and checksum, and was ingested by the
#: targets of the question.
STORED = "stored"

#: The beginning of the word of a file that has no checksum by the algorithm of the question; the
#: algorithms by which it has one follow, with commas between.
BY_OTHERS = "algorithm:"

#: The word of a file that storage does not have, by the table or on the disk.
NOT_FOUND = FileStatus.MISSING.lower()

#: The most characters of a line of a question: a path, a checksum, and the names of all targets.
LONGEST = 1 << 18

_NONCE = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Files looked up in one statement.
_CONFIRMED_TOGETHER = 2000


class Question(NamedTuple):
    """A file that is asked about."""

    relpath: str
    filename: str
    size_bytes: int
    checksum: str


def ask(section: Handoff, files: Sequence[Question]) -> list[str]:
    """Ask the endpoint about files, in one connection.

    Returns
    -------
    words : `list` [ `str` ]
        For each file: `STORED`, or why not.

    Raises
    ------
    TryLater
        There is no answer, or not a complete one.
    """
    lines = [json.dumps(file) for file in files]
    answers = converse(
        section,
        {"targets": list(section.confirm_targets)},
        lines,
        wait=0.05 * len(files),
        most=200 * (len(files) + 1000),
    )
    wanted = [*(str(number) for number in range(len(files))), "end"]
    given = [answer.split() for answer in answers]
    words = [answer[1] for answer in given if len(answer) == 2]
    if [answer[0] for answer in given] != wanted or words[len(files) :] != [str(len(files))]:
        raise TryLater(
            f"{endpoint_address(section).name} did not confirm: its answer is not one word for "
            "each file, then the end"
        )
    return words[:-1]


def converse(
    section: Handoff, header: Mapping[str, Any], lines: Sequence[str], *, wait: float, most: int
) -> list[str]:
    """Ask the endpoint's `dbb confirm` something; return the lines of its answer.

    Parameters
    ----------
    section : `Handoff`
    header : mapping
        What the question begins with; it gets a nonce.
    lines : sequence of `str`
        The lines that follow.
    wait : `float`
        Seconds, beside the `timeout` of the handoff.
    most : `int`
        Bytes of an answer.

    Raises
    ------
    TryLater
        There is no answer.
    """
    place = endpoint_address(section)
    if section.endpoint.confirm is None:
        raise ConfigError(f"[{section.endpoint_table}] confirm: is not given")
    argv = template.parse_command(section.endpoint.confirm).argv(place.values)
    if place.remote is not None:
        argv = place.argv(shlex.join(os.fsdecode(argument) for argument in argv))
    nonce = secrets.token_hex(16)
    question = [json.dumps({"nonce": nonce, **header}), *lines]
    finished = run.run(
        argv,
        timeout=section.timeout + wait,
        stdin="".join(f"{line}\n" for line in question).encode(),
        keep=most,
        # On this machine it is a `dbb` that connects to the database, too.
        env=None if place.remote is not None else os.environ,
    )
    if finished.exit_code != 0 or finished.timed_out:
        why = f"{place.name} did not confirm: {finished.summary()}"
        silent = place.remote is not None and (finished.exit_code == 255 or finished.timed_out)
        raise TryLater(why, key=place.key_of_silence if silent else "")
    return _answers(finished.stdout.decode("utf-8", "replace"), nonce)


def algorithms_of(word: str) -> list[str]:
    """Return the algorithms by which the endpoint has checksums of a file, the best first.

    There are none unless the word is that of a file that it could not compare; those that are not
    known here are left out.
    """
    if not word.startswith(BY_OTHERS):
        return []
    theirs = word.removeprefix(BY_OTHERS).split(",")
    return [name for name in checksum.ALGORITHMS if name in theirs]


def answer(
    settings: Settings, lines: Iterable[str], storages: Collection[str] | None = None
) -> Iterator[str]:
    """Answer a question about files in some storage areas, by default all of the configuration.

    Raises
    ------
    UsageError
        It is not the question of a janitor, or names a target that does not exist.
    """
    read = iter(lines)
    header = _parsed(next(read, ""))
    if not isinstance(header, dict):
        header = {}
    nonce, targets = header.get("nonce"), header.get("targets")
    # What is repeated in the answer must not look like another line of it.
    if (
        not isinstance(targets, list)
        or not all(map(_is_name, targets))
        or not isinstance(nonce, str)
        or not _NONCE.fullmatch(nonce)
    ):
        raise UsageError("stdin is not the question of a dbb-janitor")
    if storages is None:
        storages = {one.storage for one in settings.finder.values()}
        storages |= {one.storage for one in settings.target.values()}
    ids = _target_ids(settings.site.name, targets)
    count = 0
    for some in batched(read, _CONFIRMED_TOGETHER):
        questions = [_question(line, count + at) for at, line in enumerate(some)]
        for word in _words(sorted(storages), ids, questions):
            yield f"{nonce} {count} {word}"
            count += 1
    yield f"{nonce} end {count}"


def lines_of(stream: TextIO) -> Iterator[str]:
    """Yield lines as they come; one that is longer than any question is not read to its end.

    Raises
    ------
    UsageError
        There is such a line.
    """
    while line := stream.readline(LONGEST):
        if len(line) == LONGEST:
            raise UsageError(f"stdin: a line is longer than {LONGEST} characters")
        yield line


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _question(line: str, number: int) -> Question:
    values = _parsed(line)
    if isinstance(values, list) and len(values) == len(Question._fields):
        relpath, filename, size_bytes, checksum = values
        if all(map(_is_name, (relpath, filename, checksum))) and type(size_bytes) is int:
            return Question(relpath, filename, size_bytes, checksum)
    raise UsageError(f"stdin, file {number}: not a question of a dbb-janitor")


def _is_name(value: Any) -> bool:
    """Return whether a value is a text that a database takes."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _answers(text: str, nonce: str) -> list[str]:
    """Return what follows the nonce, line by line."""
    lines = (line.partition(f"{nonce} ")[2].strip() for line in text.splitlines())
    return [line for line in lines if line]


def history_asked(line: str) -> tuple[str, list[Name]] | None:
    """Return nonce and files of a question about the history of files, if a header is of one."""
    header = _parsed(line)
    if not isinstance(header, dict) or "history" not in header:
        return None
    nonce, places = header.get("nonce"), header["history"]
    if (
        not isinstance(nonce, str)
        or not _NONCE.fullmatch(nonce)
        or not isinstance(places, list)
        or not all(
            isinstance(place, list) and len(place) == 2 and all(map(_is_name, place))
            for place in places
        )
    ):
        raise UsageError("stdin is not the question of `dbb history`")
    return nonce, [(relpath, filename) for relpath, filename in places]


def _target_ids(site: str, targets: Sequence[str]) -> list[int]:
    found = []
    for name in targets:
        row = connect.read(
            connect.execute, "SELECT id FROM target WHERE site = ? AND name = ?", (site, name)
        ).fetchone()
        if row is None:
            raise UsageError(f"no target {name!r} has ever run at site {site}")
        found.append(int(row[0]))
    return found


def _words(
    storages: Sequence[str], targets: Sequence[int], questions: Sequence[Question]
) -> Iterator[str]:
    paths = [(question.relpath, question.filename) for question in questions]
    known = {s: connect.read(File.known, s, paths) for s in storages}
    ids = [found[path].id for found in known.values() for path in paths if path in found]
    ingested = connect.read(_ingested_by_all, ids, targets) if targets else set(ids)
    founds = [
        [(storage, rows[question[:2]]) for storage, rows in known.items() if question[:2] in rows]
        for question in questions
    ]
    unlike = [
        row.id
        for question, found in zip(questions, founds, strict=True)
        for _, row in found
        if _algorithm(row.checksum) != _algorithm(question.checksum)
    ]
    further = connect.read(FileChecksum.of, unlike) if unlike else {}
    for question, found in zip(questions, founds, strict=True):
        yield _word(question, found, further, ingested)


def _word(
    question: Question,
    found: Sequence[tuple[str, FileRow]],
    further: Mapping[int, Mapping[str, str]],
    ingested: set[int],
) -> str:
    """Decide about a file; where several storage areas have it, one that is right will do."""
    word = "unknown"
    algorithm, _, digest = question.checksum.partition(":")
    for storage, row in found:
        recorded, _, value = row.checksum.partition(":")
        sums = {**further.get(row.id, {}), recorded: value}
        if row.status != FileStatus.STORED:
            word = row.status.lower()
        elif row.size_bytes != question.size_bytes:
            word = "different"
        elif algorithm not in sums:
            word = BY_OTHERS + ",".join(sorted(sums))
        elif sums[algorithm].lower() != digest.lower():
            word = "different"
        elif not _on_disk(storage, question):
            word = NOT_FOUND
        elif row.id not in ingested:
            word = "not-ingested"
        else:
            return STORED
    return word


def command_there(word: str, name: str) -> str:
    """Return the command at the endpoint that says why it did not confirm a file.

    Parameters
    ----------
    word : `str`
        The endpoint's answer.
    name : `str`
        The file, quoted for a shell.
    """
    # Its history does not know what only the disk lacks, until an auditor has seen that.
    return "dbb-auditor --all --share 0" if word == NOT_FOUND else f"dbb history {name}"


def _algorithm(stored: str) -> str:
    return stored.partition(":")[0]


def _on_disk(storage: str, question: Question) -> bool:
    try:
        path = names.below(storage, names.rel_of(question))
        return os.lstat(path).st_size == question.size_bytes
    except (OSError, ValueError):
        return False


def _ingested_by_all(ids: Sequence[int], targets: Sequence[int]) -> set[int]:
    """Return the files that all of the targets have ingested."""
    where, value = bulk.among(ids)
    of, number = bulk.among(targets)
    rows: list[Any] = connect.execute(
        f"SELECT file_id FROM ingest_state WHERE file_id {where} AND target_id {of}"
        " AND status IN ('SUCCESS', 'BACKFILL') GROUP BY file_id HAVING count(*) = ?",
        (value, number, len(targets)),
    ).fetchall()
    return {row[0] for row in rows}
