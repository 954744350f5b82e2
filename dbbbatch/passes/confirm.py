"""Whether files are stored: the question of one site's janitor, and the answer of the other site.

The question is lines of JSON on stdin: a header with a nonce and the names of targets, then for
each file its relpath, filename (as in the tables), size in bytes and checksum. Each answer is a
line that begins with the nonce, so that a banner does no harm: the number of the file and a word,
in the order of the question; after the last one "end" and their count. Anything else, or an exit
code other than 0, is no answer.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TextIO

from dbbbatch.config import Handoff, Settings
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.storage import File, FileStatus, Known
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import names
from dbbbatch.passes.handoff.transfer import far_end
from dbbbatch.remote import execute, template

#: In storage with the same size and checksum, and ingested by the targets that were named.
STORED = "stored"

#: Characters of a line of a question: a path, a checksum, and the names of all targets.
_LONGEST = 1 << 18

#: Files looked up in one statement.
_TOGETHER = 2000


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
        Of each file: `STORED`, or why not.

    Raises
    ------
    TryLater
        No answer, or not a whole one.
    """
    place = far_end(section)
    assert section.endpoint.confirm is not None
    argv = template.parse(section.endpoint.confirm).argv(place.values)
    if place.remote is not None:
        argv = place.argv(shlex.join(os.fsdecode(argument) for argument in argv))
    nonce = secrets.token_hex(16)
    header = {"nonce": nonce, "targets": list(section.confirm_targets)}
    lines = [json.dumps(header), *(json.dumps(file) for file in files)]
    finished = execute.run(
        argv,
        timeout=section.timeout + 0.05 * len(files),
        stdin="".join(f"{line}\n" for line in lines).encode(),
        keep=200 * (len(files) + 1000),
    )
    answers = _answers(finished.stdout.decode("utf-8", "replace"), nonce)
    wanted = [*(str(number) for number in range(len(files))), "end"]
    if finished.exit_code != 0 or finished.timed_out:
        raise TryLater(f"{place.name} did not confirm: {finished.said()}")
    words = [answer[1] for answer in answers if len(answer) == 2]
    if [answer[0] for answer in answers] != wanted or words[len(files) :] != [str(len(files))]:
        raise TryLater(
            f"{place.name} did not confirm: its answer is not one word for each file, then the end"
        )
    return words[:-1]


def lines_of(stream: TextIO) -> Iterator[str]:
    """Yield the lines of a question, none of them longer than one can be.

    Raises
    ------
    UsageError
        One is longer: it is no question of a janitor.
    """
    while line := stream.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise UsageError("what stands on stdin is not the question of a dbb-janitor")
        yield line


def answer(settings: Settings, lines: Iterable[str]) -> Iterator[str]:
    """Answer a question about files in the storage areas of this site's configuration.

    Raises
    ------
    UsageError
        It is no question of a janitor, or names a target that does not exist.
    """
    read = iter(lines)
    try:
        header = json.loads(next(read, ""))
        nonce, targets = str(header["nonce"]), [str(name) for name in header["targets"]]
    except (ValueError, KeyError, TypeError):
        raise UsageError("what stands on stdin is not the question of a dbb-janitor") from None
    storages = sorted(
        {one.storage for one in settings.finder.values()}
        | {one.storage for one in settings.target.values()}
    )
    ids = _targets(settings.site.name, targets)
    count = 0
    while some := list(islice(read, _TOGETHER)):
        try:
            questions = [Question(*json.loads(line)) for line in some]
        except (ValueError, TypeError):
            raise UsageError(f"stdin, file {count}: not a question of a dbb-janitor") from None
        for word in _words(storages, ids, questions):
            yield f"{nonce} {count} {word}"
            count += 1
    yield f"{nonce} end {count}"


def _answers(text: str, nonce: str) -> list[list[str]]:
    """Return the words after the nonce, line by line."""
    lines = (line.partition(f"{nonce} ")[2].split() for line in text.splitlines())
    return [words for words in lines if words]


def _targets(site: str, targets: Sequence[str]) -> list[int]:
    found = []
    for name in targets:
        row = connect.look(
            partial(
                connect.execute, "SELECT id FROM target WHERE site = ? AND name = ?", (site, name)
            )
        ).fetchone()
        if row is None:
            raise UsageError(f"no target {name!r} has ever run at site {site}")
        found.append(int(row[0]))
    return found


def _words(
    storages: Sequence[str], targets: Sequence[int], questions: Sequence[Question]
) -> Iterator[str]:
    paths = [(question.relpath, question.filename) for question in questions]
    known = {s: connect.look(partial(File.known, s, paths)) for s in storages}
    ids = [found[path].id for found in known.values() for path in paths if path in found]
    ingested = connect.look(lambda: _ingested(ids, targets)) if targets else set(ids)
    for question in questions:
        found = [
            (storage, rows[question[:2]]) for storage, rows in known.items() if question[:2] in rows
        ]
        yield _word(question, found, ingested)


def _word(question: Question, found: Sequence[tuple[str, Known]], ingested: set[int]) -> str:
    """Decide about a file; where several storage areas have it, one that is right will do."""
    word = "unknown"
    for storage, row in found:
        if row.status != FileStatus.STORED:
            word = row.status.lower()
        elif (row.size_bytes, row.checksum) != (question.size_bytes, question.checksum):
            word = "different"
        elif not _on_disk(storage, question):
            word = "missing"
        elif row.id not in ingested:
            word = "not-ingested"
        else:
            return STORED
    return word


def _on_disk(storage: str, question: Question) -> bool:
    rel = names.rel_of(question)
    try:
        return os.lstat(os.path.join(storage, rel)).st_size == question.size_bytes
    except OSError:
        return False


def _ingested(ids: Sequence[int], targets: Sequence[int]) -> set[int]:
    """Return the files that all of the targets have ingested."""
    where, value = bulk.among(ids)
    of, number = bulk.among(targets)
    rows: list[Any] = connect.execute(
        f"SELECT file_id FROM ingest_state WHERE file_id {where} AND target_id {of}"
        " AND status IN ('SUCCESS', 'BACKFILL') GROUP BY file_id HAVING count(*) = ?",
        (value, number, len(targets)),
    ).fetchall()
    return {row[0] for row in rows}
