"""The janitor of a handoff: purges what is stored at the endpoint, and removes what is left over.

Nothing leaves the holding area unless the endpoint confirms, in this very pass, that it has stored
the file with the same size and checksum. No answer, no purge.

intend   Mark the held files that are to be removed (`confirmed_at`).
act      Remove each of them that is still what was delivered: it gets a hidden name, and is looked
         at under that once more.
record   The removed ones are PURGED; the others are no longer marked.
recover  What has the hidden name of a marked one gets its name back. Where a later version has got
         that name meanwhile, it gets another one, which is recorded, or is found by its inode. Is a
         HELD file in the holding area? If not, and it is marked, a pass that was killed removed it.
         If it is not marked, its disk may not be mounted.

Where the files of a buffer go to several endpoints, all that are required must confirm. The janitor
of the first of them asks, and marks its own rows; those of the others are PURGED in the transaction
that records a removal.
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
from dbbbatch.files import checksum, faults, names, place
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry, Tree, outside, why_refused
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.handoff.delivery import attempt_prefix, lists_directory
from dbbbatch.passes.handoff.holding import TOO_LATE
from dbbbatch.passes.runner import Work

#: Where the documented rsync command leaves what it has of a file when it is cut off.
PARTIAL = "dbb-partial"

#: What the directories in staging begin with in which `dbb config check` tries to place files.
CHECK = "dbb-check-"

#: What all of these begin with.
_OUR_PREFIX = "dbb-"

#: Files that the endpoint is asked about in one connection.
_ASKED_TOGETHER = 5000

#: For so long after a file was held the janitor checks that it is still what was delivered: a
#: writer that has a file open continues to write to it under its new name.
_WATCHED = timedelta(days=1)

#: Files marked in one transaction, then removed: only so many are in doubt after a kill.
_MARKED = 500


class JanitorWork(Work):
    """What `dbb-janitor` does for one handoff."""

    kind = "janitor"
    did = "purged"

    def __init__(self, section: Handoff) -> None:
        self._section = section

    def recover(self, context: PassContext) -> None:
        """Check that the areas are mounted; `work` finds what an earlier pass left."""
        buffer.require_areas(self._section, context.roots)

    def work(self, context: PassContext) -> None:
        """Purge the holding area, then remove what is left over."""
        Housekeeping(context, self._section, self._others(context)).run()

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield which files the endpoint would be asked about."""
        job = Housekeeping(context, self._section, self._others(context))
        if not job.may_purge:
            yield "nothing is purged: the endpoint has no `confirm`"
            return
        for file in job.candidates():
            yield f"purge, if the endpoint confirms it: {names.printable(file.held_rel)}"
            job.lacking -= file.size_bytes

    def due(self, context: PassContext) -> bool:
        """Return whether a held file is old enough."""
        job = Housekeeping(context, self._section, self._others(context))
        return job.may_purge and next(job.candidates(), None) is not None

    def _others(self, context: PassContext) -> list[Handoff]:
        """Return the sections of the other endpoints that must confirm, too.

        Raises
        ------
        ConfigError
            One of them is wrong.
        """
        settings = context.settings
        others = [name for name in self._section.required if name != self._section.name]
        for name in others:
            settings.require(f"handoff.{name}")
        return [settings.handoff[name] for name in others]


class Housekeeping:
    """One pass of the janitor.

    Attributes
    ----------
    lacking : `int`
        Bytes that must still be freed in the holding area, as far as `candidates` knows.
    """

    def __init__(
        self, context: PassContext, section: Handoff, others: Sequence[Handoff] = ()
    ) -> None:
        self.context = context
        self.lacking = 0
        self._section = section
        self._others = others
        self._site = context.settings.site.name
        self._now = self._old = datetime.min
        self._present = self._missing = self._unconfirmed = 0
        self._first_missing = ""
        self._first_unconfirmed: tuple[HandoffRow, str] | None = None
        self._purged_before: list[int] = []
        self._altered: dict[str, str] = {}

    @property
    def may_purge(self) -> bool:
        """Whether the endpoint and all others that must confirm can be asked."""
        return all(one.endpoint.confirm for one in (self._section, *self._others))

    def run(self) -> None:
        """Purge the holding area, then remove what is left over."""
        troubles = []
        for duty in (
            self._purge,
            self._check_latest,
            self._clean_staging,
            self._clean_here,
        ):
            try:
                duty()
            except TryLater as error:
                troubles.append(error)
        self._warn_of_altered()
        if troubles:
            raise troubles[0]

    def candidates(self) -> Iterator[HandoffRow]:
        """Yield held files, oldest first: those of age, and while space is lacking others too."""
        section = self._section
        self._now = connect.read(connect.now)
        self._old = self._now - timedelta(seconds=section.purge_after)
        if section.holding_free and section.is_first:
            self.lacking = max(0, section.holding_free - place.free_bytes(section.holding))
        for page in self._held_files(None):
            for file in self._of_this_one(page):
                if file.held_at > self._old and self.lacking <= 0:
                    return
                if self.context.matches(file.rel) and (self._is_old(file) or self.lacking > 0):
                    yield file

    def intend(self, files: Sequence[HandoffRow]) -> None:
        """Mark files that are about to be removed."""
        connect.write(HandoffFile.confirmed, [file.id for file in files])

    def act(self, files: Sequence[HandoffRow]) -> tuple[list[int], list[int]]:
        """Remove files; return the ids of those that are gone, and of those that stay."""
        purged, kept = list[int](), list[int]()
        directories = set()
        for file in files:
            gone = self._remove(file)
            if gone:
                self.lacking -= file.size_bytes
                purged.append(file.id)
                directories.add(names.split(file.held_rel)[0])
            elif gone is not None:
                kept.append(file.id)
        # What is not there now may be on the disk, or in the directory, that was there when it was
        # marked.
        self.context.roots.require(self._section.holding)
        with faults.as_try_later():
            self._holding.require_same(directories)
        return purged, kept

    def record(
        self, files: Sequence[HandoffRow], purged: Sequence[int], kept: Sequence[int]
    ) -> None:
        """Record which of the marked files were removed, and which stay; others keep the mark."""

        def write() -> None:
            self._record_purged(purged)
            HandoffFile.kept(kept)

        connect.write(write)
        gone = set(purged)
        size = sum(file.size_bytes for file in files if file.id in gone)
        self.context.did("purged", len(purged), size)

    def recover(self) -> None:
        """Record what a killed pass removed, and warn of what else is missing.

        Raises
        ------
        TryLater
            So much is missing that this looks like an empty mount point.
        """
        message = (
            f"{self._section.holding}: "
            f"{names.counted(self._missing, 'held file is', 'held files are')} not there, and no "
            f"pass removed any ({names.printable(self._first_missing)}): is it mounted? "
            f"If a person did: `dbb ignore {self._section.label} --status HELD --match …`"
        )
        # However many they are, it is one trouble, which is told once; of each endpoint its own.
        key = f"held files of {self._section.label} that are not there"
        if self._missing > self._present:
            raise TryLater(message, key=key)
        connect.write(self._record_purged, self._purged_before)
        self.context.counts["purged"] += len(self._purged_before)
        if self._missing:
            self.context.warn(message, key=key, shared=True)

    def _purge(self) -> None:
        if not self.may_purge:
            return
        context = self.context
        context.bar.step("purging what the endpoint has stored")
        connect.write(HandoffFile.held_from_now, self._site, self._section.name)
        for files in batched(self.candidates(), _ASKED_TOGETHER):
            if context.stopping:
                break
            files = files[: context.take(len(files))]
            self._holding.forget()
            stored = self._confirmed([row for file in files if (row := self._located(file))])
            while some := self._to_go(stored[:_MARKED]):
                stored = stored[len(some) :]
                there = self._still_there(some)
                self.intend(there)
                self.record(there, *self.act(there))
        if self.lacking > 0 and not context.stopping and not context.options.match:
            context.warn(
                f"{self._section.holding}: less than holding_free is free, and the endpoint "
                "confirms no more files",
                key="holding is full",
            )
        self._warn_of_unconfirmed()
        self.recover()

    @property
    def _holding(self) -> Tree:
        return self.context.roots.tree(self._section.holding)

    @property
    def _owner(self) -> str:
        """Owner of the hidden names in the holding area."""
        return f"{self._section.label} janitor"

    def _held_files(self, after: tuple[datetime, int] | None) -> Iterator[Sequence[HandoffRow]]:
        """Yield the files of the holding area page by page, those first that are there longest.

        The rows whose names lead elsewhere are refused.
        """
        site, name = self._site, self._section.name
        for page in connect.pages(
            lambda last: HandoffFile.held_files(site, name, last, _ASKED_TOGETHER),
            after,
            "held_at",
            "id",
        ):
            yield self.context.sound(page, "handoff_file")

    def _is_old(self, file: HandoffRow) -> bool:
        """Return whether a file has been held for long enough.

        No file was held before it was written: where the clock was behind when it was held, its own
        time shows that. A file's time in the future shows nothing.
        """
        written = datetime.fromtimestamp(file.mtime_ns / 1e9, UTC).replace(tzinfo=None)
        return file.held_at <= self._old and not self._old < written <= self._now

    def _to_go(self, files: Sequence[HandoffRow]) -> Sequence[HandoffRow]:
        """Return the first of stored files: those of age, and those that free what is lacking."""
        lacking = self.lacking
        for number, file in enumerate(files):
            if not self._is_old(file) and lacking <= 0:
                return files[:number]
            lacking -= file.size_bytes
        return files

    def _confirmed(self, files: Sequence[HandoffRow]) -> list[HandoffRow]:
        """Return the files that the endpoint has stored; record why old ones stay."""
        words = self._words(self._section, files)
        if self._others:
            self._ask_others(files, words)
        stored, unconfirmed = [], []
        for file, word in zip(files, words, strict=True):
            if word == confirm.STORED:
                stored.append(file)
            elif self._is_old(file):
                unconfirmed.append((file, word))
                shown = names.printable(file.rel)
                self.context.log.info("%s: not confirmed by the endpoint: %s", shown, word)
        self.context.counts["not confirmed"] += len(files) - len(stored)
        self._unconfirmed += len(unconfirmed)
        self._first_unconfirmed = self._first_unconfirmed or next(iter(unconfirmed), None)
        reasons = [
            (file.id, f"not confirmed by the endpoint: {word}") for file, word in unconfirmed
        ]
        if reasons:
            connect.write(HandoffFile.unconfirmed, reasons)
        return stored

    def _of_this_one(self, files: Sequence[HandoffRow]) -> Sequence[HandoffRow]:
        """Return files without those of another endpoint's janitor, or of the buffer.

        Of the endpoints that have a file, the first required one purges it. What one of them is to
        get is in the buffer again.
        """
        section = self._section
        if not section.siblings or not files:
            return files
        required = section.required
        before = required[: required.index(section.name)] if section.name in required else required
        known = connect.read(HandoffFile.siblings, [file.id for file in files], section.others)
        return [
            file
            for file in files
            if not any(
                status in ("FOUND", "DELIVERED") or (status == "HELD" and name in before)
                for _, name, status, _ in known[file.id]
            )
        ]

    def _words(self, section: Handoff, files: Sequence[HandoffRow]) -> list[str]:
        """Return what an endpoint says about files."""
        words = self._ask(section, files, [file.checksum or "" for file in files])
        self._ask_by_others(section, files, words)
        return words

    def _ask_others(self, files: Sequence[HandoffRow], words: list[str]) -> None:
        """Ask the other endpoints, too, and replace the word where one does not have a file.

        It is not asked about what it was never sent: it was added later, was not waited for, or a
        person said so.
        """
        names_of = [one.name for one in self._others]
        known = connect.read(HandoffFile.siblings, [file.id for file in files], names_of)
        sent = {
            (number, name)
            for number, of in known.items()
            for _, name, status, error in of
            if status == "HELD" or (status == "VANISHED" and error != TOO_LATE)
        }
        for one in self._others:
            at = [
                number
                for number, file in enumerate(files)
                if words[number] == confirm.STORED and (file.id, one.name) in sent
            ]
            answers = self._words(one, [files[number] for number in at]) if at else []
            for number, word in zip(at, answers, strict=True):
                words[number] = word if word == confirm.STORED else f"{word} at {one.label}"

    def _record_purged(self, ids: Sequence[int]) -> None:
        """Record that originals are gone, for each endpoint, in the current transaction."""
        HandoffFile.purged(ids)
        if self._section.siblings and ids:
            known = HandoffFile.siblings(ids, self._section.others)
            HandoffFile.purged([number for of in known.values() for number, *_ in of])

    def _ask(self, section: Handoff, files: Sequence[HandoffRow], sums: Sequence[str]) -> list[str]:
        questions = [
            confirm.Question(file.relpath, file.filename, file.size_bytes, digest)
            for file, digest in zip(files, sums, strict=True)
        ]
        return confirm.ask(section, questions)

    def _ask_by_others(
        self, section: Handoff, files: Sequence[HandoffRow], words: list[str]
    ) -> None:
        """Ask again about files of which the endpoint has only checksums by other algorithms.

        They are read here, and the word of each is replaced.
        """
        at = [number for number, word in enumerate(words) if confirm.algorithms_of(word)]
        sums: dict[int, str] = {}
        for number in at[: len(self._to_go([files[number] for number in at]))]:
            if self.context.stopping:
                break
            algorithm = confirm.algorithms_of(words[number])[0]
            if digest := self._read(files[number], algorithm):
                sums[number] = digest
        if not sums:
            return
        self.context.counts["read again"] += len(sums)
        self.context.log.info(
            "%s read again: [%s] has another `checksum` than the endpoint's finder",
            names.counted(len(sums), "held file is", "held files are"),
            section.table,
        )
        answers = self._ask(section, [files[number] for number in sums], list(sums.values()))
        for number, word in zip(sums, answers, strict=True):
            words[number] = word

    def _read(self, file: HandoffRow, algorithm: str) -> str:
        """Return a further checksum of a held file; "" if it is not what was delivered."""
        try:
            ours, digest = checksum.parse(file.checksum or "")
            held = self._holding.entry(file.held_rel)
            if held.lstat().st_size != file.size_bytes:
                return ""
            sums = checksum.compute(held, {ours, algorithm})
        except (OSError, ValueError):
            return ""
        return checksum.format(algorithm, sums[algorithm]) if sums[ours] == digest else ""

    def _warn_of_unconfirmed(self) -> None:
        if self._first_unconfirmed is None:
            return
        oldest, word = self._first_unconfirmed
        name = names.printable(oldest.rel)
        command = confirm.command_there(word, shlex.quote(name))
        if word.startswith(confirm.BY_OTHERS):
            ours = (oldest.checksum or "none").partition(":")[0]
            theirs = word.removeprefix(confirm.BY_OTHERS)
            word = (
                f"its checksum is {ours} here and {theirs} there, so they cannot be compared: let "
                f"`checksum` of [{self._section.table}] be that of the endpoint's finder"
            )
        self.context.warn(
            f"{self._section.holding}: past purge_after, "
            f"{names.counted(self._unconfirmed, 'held file is', 'held files are')} not confirmed "
            f"by the endpoint, the oldest {name} ({word}), held since "
            f"{oldest.held_at:%Y-%m-%d %H:%M} UTC; `{command}` there says why",
            key="not confirmed",
        )

    def _located(self, file: HandoffRow) -> HandoffRow | None:
        """Return a row with the name that its file has now; `None` if there is nothing to do.

        A pass that was killed may have taken or removed a marked file, and a later version may
        have been held under its name since then.
        """
        if not file.confirmed_at:
            return file
        held = self._holding.entry(file.held_rel)
        try:
            name = self._name_given_back(held, file)
            status = held.beside(name).certain_status()
            if status is None or self._is_anothers(file, status):
                found = buffer.find_held(self._holding, file)
                if status is not None and not found:
                    self._purged_before.append(file.id)
                    return None
                name = found or name
        except OSError as error:
            self._warn_of_stuck(held, error)
            return None
        if name == held.name:
            return file
        file = file._replace(held_as=names.to_text(name))
        connect.write(self._record_name, file)
        return file

    def _name_given_back(self, held: Entry, file: HandoffRow) -> str:
        """Rename what was taken of a file back; return the name of the file, as far as is known."""
        taken = place.taken(held, self._owner).certain_status()
        if taken is None or self._is_anothers(file, taken):
            return held.name
        name = place.give_back(held, self._owner)
        return name if _is_of_row(taken, file) else held.name

    def _is_anothers(self, file: HandoffRow, status: os.stat_result) -> bool:
        """Return whether what has, or had, the name of a held file is that of another row."""
        if Version.of_file(status).is_like(Version.of_row(file)):
            return False
        filenames = [file.filename, file.held_as or ""]
        size, mtime_ns, _ = Version.of_file(status)
        others = connect.read(HandoffFile.others_like, file.id, file.relpath, filenames, size)
        return (file.held_as, size, mtime_ns) in others

    def _record_name(self, file: HandoffRow) -> None:
        """Record the name of a held file, for each endpoint, in the current transaction."""
        siblings = HandoffFile.siblings([file.id], self._section.others)[file.id]
        ids = [file.id, *(number for number, *_ in siblings)]
        HandoffFile.renamed(ids, file.held_as or "")

    def _still_there(self, files: Sequence[HandoffRow]) -> list[HandoffRow]:
        """Return the files that are there; note which of the others a killed pass removed.

        What cannot be looked at keeps its mark: a killed pass may have removed it.
        """
        there = []
        holding = self._holding
        holding.forget()
        for file in files:
            held = holding.entry(file.held_rel)
            try:
                held.lstat()
            except FileNotFoundError:
                if file.confirmed_at:
                    self._purged_before.append(file.id)
                else:
                    self._missing += 1
                    self._first_missing = self._first_missing or file.held_rel
            except OSError as error:
                self._present += 1
                self._warn_of_stuck(held, error)
            else:
                there.append(file)
        self._present += len(there)
        return there

    def _remove(self, file: HandoffRow) -> bool | None:
        """Remove a held file if it is the one that was delivered; return whether it is gone.

        `None` if that is not certain.
        """
        held = self._holding.entry(file.held_rel)
        try:
            status = held.lstat()
            if not _is_delivered(held, status, file):
                if self._is_anothers(file, status):
                    return None  # the next pass looks for it
                self._note_altered(held, status, file)
                return False
            place.remove_same(held, status, place.taken(held, self._owner))
        except FileNotFoundError:
            return self._is_gone(held, file)
        except Interrupted:
            return False
        except OSError as error:
            self._warn_of_stuck(held, error)
            return self._is_gone(held, file)
        return True

    def _is_gone(self, held: Entry, file: HandoffRow) -> bool | None:
        """Return whether nothing has the name of a held file; `None` if that is not certain.

        It may have its hidden name, or that of its next version.
        """
        with suppress(OSError):
            if (status := held.certain_status()) is not None:
                return False if _is_of_row(status, file) else None
            if not place.is_there(place.taken(held, self._owner)):
                return True
        return None

    def _warn_of_stuck(self, held: Entry, error: OSError) -> None:
        shown = names.printable(held.path)
        why = why_refused(error, held)
        self.context.warn(f"{shown}: cannot be purged: {why}", key="purge", of=held.rel)

    def _check_latest(self) -> None:
        """Check whether what was held lately is still what was delivered."""
        if not self._section.is_first:
            return
        for page in self._held_files((connect.read(connect.now) - _WATCHED, 0)):
            if self.context.stopping:
                break
            self._holding.forget()
            for file in page:
                with suppress(OSError):  # found out on the day on which it is to go
                    held = self._holding.entry(file.held_rel)
                    status = held.lstat()
                    like = Version.of_file(status).is_like(Version.of_row(file))
                    if not like and not self._is_anothers(file, status):
                        self._note_altered(held, status, file)

    def _note_altered(self, held: Entry, status: os.stat_result, file: HandoffRow) -> None:
        delivered, there = file.size_bytes, status.st_size
        what = (
            f"{names.counted(delivered, 'byte was', 'bytes were')} delivered, and it has {there:,}"
        )
        if delivered == there:
            what = "it has other content or another time"
        self._altered[held.path] = what

    def _warn_of_altered(self) -> None:
        """Warn of held files that are not what was delivered: what is new in them is only here."""
        if not self._altered:
            return
        path, what = next(iter(self._altered.items()))
        self.context.warn(
            f"{self._section.holding}: "
            f"{names.counted(len(self._altered), 'held file is', 'held files are')} not as "
            f"delivered, such as {names.printable(path)} ({what}): a program may have written to "
            "it later; they are not purged. To send what is there, move it back into "
            f"{self._section.buffer}",
            key="held files changed",
            level=len(self._altered),
        )

    def _clean_staging(self) -> None:
        """Remove what passes left in staging and the database no longer knows."""
        section = self._section
        with Session(endpoint_address(section)) as session:
            prefix = re.escape(attempt_prefix(self._site, section.name))
            # An attempt of a pass or of its probe, a trial of the configuration, partials.
            ours = re.compile(
                rf"(?P<name>(?P<attempt>{prefix}[0-9a-f]{{16}})(-trial)?|{CHECK}[0-9a-f]{{16}})"
                rf"(\.r)?(\.x)?|{PARTIAL}"
            )
            found = session.attempts(_OUR_PREFIX)
            unfinished = connect.read(TransferBatch.unfinished, self._site, section.name)
            in_use = {batch.attempt for batch in unfinished}
            for name, age in found.items():
                match = ours.fullmatch(name)
                if match and age >= section.stale_after and match["attempt"] not in in_use:
                    session.clean(match["name"] or name, section.timeout)
                    self.context.counts["staging removed"] += bool(match["attempt"])

    def _clean_here(self) -> None:
        """Remove old empty directories, and what killed passes left in the state directory."""
        state, section = self.context.settings.site.state, self._section
        # Not there, or gone meanwhile: each handoff removes its own lists, too.
        with suppress(OSError):
            for entry in os.scandir(lists_directory(state)):
                if time.time() - entry.stat().st_mtime >= section.stale_after:
                    outside(entry.path).unlink()
        removed = buffer.remove_sent_directories(self._site, section)
        removed += place.remove_empty_directories(self._holding, section.expiration)
        self.context.counts["directories removed"] += removed


def _is_of_row(status: os.stat_result, file: HandoffRow) -> bool:
    """Return whether this is the file of a row, or was before somebody wrote to it."""
    found, recorded = Version.of_file(status), Version.of_row(file)
    return found.inode == recorded.inode or found.is_like(recorded)


def _is_delivered(held: Entry, status: os.stat_result, file: HandoffRow) -> bool:
    """Return whether a file of the holding area is the one that was delivered.

    One of another inode was written since, or the disk is a restored one: its content decides.
    """
    delivered, there = Version.of_row(file), Version.of_file(status)
    if there == delivered:
        return True
    if not there.is_like(delivered):
        return False
    try:
        return checksum.matches(held, file.checksum or "")
    except ValueError:
        return False
