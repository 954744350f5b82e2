"""The janitor of a handoff: purges what is stored at the endpoint, and sweeps up what is old.

Nothing leaves the holding area unless the endpoint says, in this very pass, that it has stored the
file with the same size and checksum. No answer, no purge.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from dbbbatch.areas import buffer
from dbbbatch.areas.endpoint import confirm
from dbbbatch.areas.endpoint.session import Session
from dbbbatch.areas.endpoint.transfer import endpoint_address
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.passes.handoff.outcomes import attempt_prefix
from dbbbatch.passes.handoff.streams import lists_directory
from dbbbatch.passes.runner import PassContext, Work

#: Where the documented rsync command leaves what it has of a file when it is cut off.
PARTIAL = "dbb-partial"

#: What the directories in staging begin with in which `dbb config check` tries to place files.
CHECK = "dbb-check-"

#: What all of these begin with.
_OUR_PREFIX = "dbb-"

#: Files that the endpoint is asked about in one connection.
_ASKED_TOGETHER = 5000

#: For so long after a file was held the janitor looks whether it is still what was delivered: a
#: writer that has a file open goes on with it under its new name.
_WATCHED = timedelta(days=1)

#: Files marked in one transaction, then removed: so few are in doubt after a kill.
_MARKED = 500


class JanitorWork(Work):
    """What `dbb-janitor` does for one handoff."""

    kind = "janitor"

    def __init__(self, section: Handoff) -> None:
        self._section = section
        self._now = self._old = datetime.min
        self._lacking = 0
        self._begin()

    def _begin(self) -> None:
        self._there = self._missing = 0
        self._first_missing = ""
        self._gone: list[int] = []
        self._other: dict[str, str] = {}
        self._unconfirmed = 0
        self._first_unconfirmed: tuple[HandoffRow, str] | None = None

    def recover(self, p: PassContext) -> None:
        """Have nothing to finish: a file that is gone from holding is found again by `work`."""
        buffer.require_areas(self._section, p.roots)

    def work(self, p: PassContext) -> None:
        """Purge the holding area, then sweep up."""
        troubles = []
        self._begin()
        for duty in (self._purge, self._look_at_the_latest, self._sweep_staging, self._sweep_here):
            try:
                duty(p)
            except TryLater as error:
                troubles.append(error)
        self._say_other(p)
        if troubles:
            raise troubles[0]

    def plan(self, p: PassContext) -> Iterator[str]:
        """Yield which files the endpoint would be asked about."""
        if not self._section.endpoint.confirm:
            yield "nothing is purged: the endpoint has no `confirm`"
            return
        for file in self._candidates(p):
            yield f"purge, if the endpoint confirms it: {names.printable(file.held_rel)}"
            self._lacking -= file.size_bytes

    def due(self, p: PassContext) -> bool:
        """Return whether a held file is old enough."""
        return next(self._candidates(p), None) is not None

    def _purge(self, p: PassContext) -> None:
        if not self._section.endpoint.confirm:
            return
        self._begin()
        site, handoff = p.settings.site.name, self._section.name
        connect.write(HandoffFile.held_from_now, site, handoff)
        for files in batched(self._candidates(p), _ASKED_TOGETHER):
            if p.stopping:
                break
            self._purge_confirmed(p, files[: p.take(len(files))])
        if self._lacking > 0 and not p.stopping and not p.options.match:
            p.warn(
                f"{self._section.holding}: less than holding_free is free, and the endpoint "
                "confirms no more files",
                key="holding is full",
            )
        self._say_unconfirmed(p)
        self._settle_missing(p)

    def _space_lacking(self) -> int:
        """Return how much space is lacking."""
        if not self._section.holding_free:
            return 0
        return max(0, self._section.holding_free - place.free_bytes(self._section.holding))

    def _candidates(self, p: PassContext) -> Iterator[HandoffRow]:
        """Yield held files, oldest first: those of age, and while space is lacking others too."""
        self._now = connect.read(connect.now)
        self._old = self._now - timedelta(seconds=self._section.purge_after)
        self._lacking = self._space_lacking()
        after = None
        while True:
            page = connect.read(
                HandoffFile.held_files,
                p.settings.site.name,
                self._section.name,
                after,
                _ASKED_TOGETHER,
            )
            for file in p.sound(page, "handoff_file"):
                if file.held_at > self._old and self._lacking <= 0:
                    return
                if p.matches(file.rel) and (self._is_old(file) or self._lacking > 0):
                    yield file
            if not page:
                return
            after = (page[-1].held_at, page[-1].id)

    def _is_old(self, file: HandoffRow) -> bool:
        """Return whether a file has been held for long enough.

        No file was held before it was written: where the clock was behind when it was, its own time
        says so. A file's time that is yet to come says nothing.
        """
        written = datetime.fromtimestamp(file.mtime_ns / 1e9, UTC).replace(tzinfo=None)
        return file.held_at <= self._old and not self._old < written <= self._now

    def _purge_confirmed(self, p: PassContext, files: Sequence[HandoffRow]) -> None:
        """Ask the endpoint about files, and purge those that it has stored and are to go."""
        words = self._ask(files, [file.checksum or "" for file in files])
        self._ask_by_others(p, files, words)
        stored = [file for file, word in zip(files, words, strict=True) if word == confirm.STORED]
        p.counts["not confirmed"] += len(files) - len(stored)
        self._note_unconfirmed(
            p,
            [
                (file, word)
                for file, word in zip(files, words, strict=True)
                if word != confirm.STORED and self._is_old(file)
            ],
        )
        while some := self._to_go(stored[:_MARKED]):
            stored = stored[len(some) :]
            self._purge_stored(p, some)

    def _ask(self, files: Sequence[HandoffRow], sums: Sequence[str]) -> list[str]:
        return confirm.ask(
            self._section,
            [
                confirm.Question(file.relpath, file.filename, file.size_bytes, digest)
                for file, digest in zip(files, sums, strict=True)
            ],
        )

    def _ask_by_others(self, p: PassContext, files: Sequence[HandoffRow], words: list[str]) -> None:
        """Ask once more about files of which the endpoint has only other checksums than we.

        They are read here, and the word of each is replaced.
        """
        at = [number for number, word in enumerate(words) if confirm.algorithms_of(word)]
        again: list[int] = []
        sums: list[str] = []
        for number, _ in zip(at, self._to_go([files[number] for number in at]), strict=False):
            if p.stopping:
                break
            algorithm = confirm.algorithms_of(words[number])[0]
            if digest := self._read(files[number], algorithm):
                again.append(number)
                sums.append(digest)
        if not again:
            return
        p.counts["read again"] += len(again)
        p.log.info(
            "%d held files are read again: [%s] has another `checksum` than the endpoint's finder",
            len(again),
            self._section.label,
        )
        answers = self._ask([files[number] for number in again], sums)
        for number, word in zip(again, answers, strict=True):
            words[number] = word

    def _read(self, file: HandoffRow, algorithm: str) -> str:
        """Return a further checksum of a held file; "" if it is not what was delivered."""
        path = os.path.join(self._section.holding, file.held_rel)
        try:
            ours, digest = checksum.parse(file.checksum or "")
            if os.lstat(path).st_size != file.size_bytes:
                return ""
            sums = checksum.compute(path, {ours, algorithm})
        except (OSError, ValueError):
            return ""
        return checksum.format(algorithm, sums[algorithm]) if sums[ours] == digest else ""

    def _note_unconfirmed(self, p: PassContext, files: Sequence[tuple[HandoffRow, str]]) -> None:
        """Keep in the table why files of age stay: the endpoint may have lost them."""
        if not files:
            return
        self._unconfirmed += len(files)
        self._first_unconfirmed = self._first_unconfirmed or files[0]
        for file, word in files:
            p.log.info("%s: not confirmed by the endpoint: %s", names.printable(file.rel), word)
        reasons = [(file.id, f"not confirmed by the endpoint: {word}") for file, word in files]
        connect.write(HandoffFile.unconfirmed, reasons)

    def _say_unconfirmed(self, p: PassContext) -> None:
        if self._first_unconfirmed is None:
            return
        oldest, word = self._first_unconfirmed
        name = names.printable(oldest.rel)
        if word.startswith(confirm.BY_OTHERS):
            ours = (oldest.checksum or "none").partition(":")[0]
            theirs = word.removeprefix(confirm.BY_OTHERS)
            word = (
                f"its checksum is {ours} here and {theirs} there, so they cannot be compared: let "
                f"`checksum` of [{self._section.label}] be that of the endpoint's finder"
            )
        p.warn(
            f"{self._section.holding}: {self._unconfirmed} held files past purge_after are not "
            f"confirmed by the endpoint, the oldest {name} ({word}), held since "
            f"{oldest.held_at:%Y-%m-%d %H:%M} UTC; `dbb history {shlex.quote(name)}` there says "
            "why",
            key="not confirmed",
        )

    def _to_go(self, files: Sequence[HandoffRow]) -> Sequence[HandoffRow]:
        """Return the first of stored files: those of age, and what makes the space that lacks."""
        lacking = self._lacking
        for number, file in enumerate(files):
            if not self._is_old(file) and lacking <= 0:
                return files[:number]
            lacking -= file.size_bytes
        return files

    def _purge_stored(self, p: PassContext, files: Sequence[HandoffRow]) -> None:
        """Mark files that are there, remove them, and record it.

        A file that is not there was removed by a pass that was killed, if it is marked. If it is
        not, it may be on a disk that is not mounted.
        """
        there, purged, kept = [], [], []
        for file in files:
            if not _is_gone(names.below(self._section.holding, file.held_rel)):
                there.append(file)
            elif file.confirmed_at:
                self._gone.append(file.id)
            else:
                self._first_missing = self._first_missing or file.held_rel
                self._missing += 1
        self._there += len(there)
        connect.write(lambda: HandoffFile.confirmed([file.id for file in there]))
        for file in there:
            if self._remove(p, file):
                self._lacking -= file.size_bytes
                purged.append(file.id)
            else:
                kept.append(file.id)

        # What is not there now may be on the disk that was there when it was marked.
        p.roots.require(self._section.holding)

        def write() -> None:
            HandoffFile.purged(purged)
            HandoffFile.kept(kept)

        connect.write(write)
        p.counts["purged"] += len(purged)

    def _settle_missing(self, p: PassContext) -> None:
        """Record what a killed pass removed, and say what else is not there.

        Raises
        ------
        TryLater
            So much is not there that this looks like an empty mount point.
        """
        message = (
            f"{self._section.holding}: {self._missing} held files are not there, and no pass "
            f"removed them ({names.printable(self._first_missing)}): is it mounted? If a person "
            f"removed them: `dbb ignore {self._section.label} --status HELD --match …`"
        )
        if self._missing > self._there:
            raise TryLater(message)
        connect.write(HandoffFile.purged, self._gone)
        p.counts["purged"] += len(self._gone)
        if self._missing:
            p.warn(message, key="missing from holding")

    def _remove(self, p: PassContext, file: HandoffRow) -> bool:
        """Remove a held file if it is the one that the table tells of; True if it is gone."""
        path = names.below(self._section.holding, file.held_rel)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return True
        except OSError as error:
            p.warn(f"{names.printable(path)}: {error.strerror}", key=f"purge {file.held_rel}")
            return False
        try:
            if not _is_delivered(path, status, file):
                self._note_other(path, status, file)
                return False
            os.unlink(path)
        except Interrupted:
            return False
        except OSError as error:
            p.warn(
                f"{names.printable(path)}: cannot be purged: {error.strerror}",
                key=f"purge {file.held_rel}",
            )
            return False
        return True

    def _look_at_the_latest(self, p: PassContext) -> None:
        """Look whether what was held lately is still what was delivered."""
        site, name = p.settings.site.name, self._section.name
        after = (connect.read(connect.now) - _WATCHED, 0)
        while not p.stopping and (
            page := connect.read(HandoffFile.held_files, site, name, after, _ASKED_TOGETHER)
        ):
            after = (page[-1].held_at, page[-1].id)
            for file in page:
                path = os.path.join(self._section.holding, file.held_rel)
                with suppress(OSError):  # the day on which it is to go tells
                    status = os.lstat(path)
                    if not Version.of_file(status).is_like(Version.of_row(file)):
                        self._note_other(path, status, file)

    def _note_other(self, path: str, status: os.stat_result, file: HandoffRow) -> None:
        delivered, there = file.size_bytes, status.st_size
        what = f"{delivered} bytes were delivered, and it has {there}"
        if delivered == there:
            what = "it has other content or another time"
        self._other[path] = what

    def _say_other(self, p: PassContext) -> None:
        """Warn of held files that are not what was delivered: what is new in them is only here."""
        if not self._other:
            return
        path, what = next(iter(self._other.items()))
        p.warn(
            f"{self._section.holding}: {len(self._other)} held files are not the ones that were "
            f"delivered, such as {names.printable(path)} ({what}): a program may have written to "
            "it later; they are not purged. To send what is there, move it back into "
            f"{self._section.buffer}",
            key="held files changed",
            level=len(self._other),
        )

    def _sweep_staging(self, p: PassContext) -> None:
        """Remove what passes left in staging that the database no longer tells of."""
        site, section = p.settings.site.name, self._section
        with Session(endpoint_address(section)) as session:
            prefix = re.escape(attempt_prefix(site, section.name))
            # An attempt of a pass or of its probe, a trial of the configuration, partials.
            ours = re.compile(
                rf"(?P<name>(?P<attempt>{prefix}[0-9a-f]{{16}})(-trial)?|{CHECK}[0-9a-f]{{16}})"
                rf"(\.r)?(\.x)?|{PARTIAL}"
            )
            found = session.attempts(_OUR_PREFIX)
            in_use = {
                batch.attempt
                for batch in connect.read(TransferBatch.unfinished, site, section.name)
            }
            for name, age in found.items():
                match = ours.fullmatch(name)
                if match and age >= section.stale_after and match["attempt"] not in in_use:
                    session.clean(match["name"] or name, section.timeout)
                    p.counts["staging removed"] += bool(match["attempt"])

    def _sweep_here(self, p: PassContext) -> None:
        """Remove old empty directories, and what killed passes left in the state directory."""
        state, section = p.settings.site.state, self._section
        for directory, end in (lists_directory(state), ""), (os.path.join(state, "said"), ".tmp"):
            # Not there, or gone meanwhile: each handoff removes its own lists, too.
            with suppress(OSError):
                for entry in os.scandir(directory):
                    age = time.time() - entry.stat().st_mtime
                    if entry.name.endswith(end) and age >= section.stale_after:
                        os.unlink(entry.path)
        removed = buffer.remove_sent_directories(p.settings.site.name, section)
        removed += place.remove_empty_directories(section.holding, section.expiration)
        p.counts["directories removed"] += removed


def _is_delivered(path: str, status: os.stat_result, file: HandoffRow) -> bool:
    """Return whether a file of the holding area is the one that the table tells of.

    One of another inode was written since, or the disk is a restored one: its content decides.
    """
    delivered, there = Version.of_row(file), Version.of_file(status)
    if there == delivered:
        return True
    if not there.is_like(delivered):
        return False
    try:
        return checksum.matches(path, file.checksum or "")
    except ValueError:
        return False


def _is_gone(path: str) -> bool:
    """Return whether nothing has a path; that it cannot be looked at does not tell so."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
