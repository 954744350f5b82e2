"""The far end of a handoff where dbbbatch is installed: the only command of another site's key.

It answers the requests that far_end.sh answers, with the same promises and the same files in an
attempt's directory (they are explained there), so either of them finishes what the other began. It
never runs the script that it is sent, works only in the two directories of its own configuration,
and follows no link in them. A file is placed by a rename that replaces nothing: one that a receipt
lists and that is no longer in ``t/`` has been placed.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO

from dbbbatch.areas.endpoint import session
from dbbbatch.areas.endpoint.rsync_server import PARTIALS
from dbbbatch.areas.endpoint.session import Refused
from dbbbatch.config.sections import Receive
from dbbbatch.errors import NOT_WRITABLE, DbbError, Interrupted, UsageError
from dbbbatch.files import checksum, faults, names, place, tar
from dbbbatch.files.temporary import PROBE_PREFIX, TEMPORARY_PREFIX
from dbbbatch.files.tree import Tree

#: The most bytes of a line, of the script that is not run, and of a list of names.
_LONGEST_LINE = 1 << 16
_LONGEST_SCRIPT = 1 << 20
_LONGEST_LIST = 1 << 26

#: Seconds after the time limit of a request at which this process ends: a disk does not answer.
_GRACE = 5

_SETTING = re.compile(rb"(protocol|nonce|staging|buffer|sum)=([A-Za-z0-9._/-]*)\n")

#: Where the rest of a file begins, its permissions, and its time.
_SHAPE = re.compile(r"(\d{1,19})/([0-7]{1,4})/(\d{1,12})\.(\d{9})")

#: The files of an attempt that a request may write.
_LISTS = ("dirs", "names", "numbered")

#: What nobody may do with a file that is placed, and what others may not do in any case.
_LOOSE, _LOOSE_OTHERS = 0o7222, 0o7022


def receive(section: Receive, requests: io.BufferedIOBase, answers: BinaryIO) -> None:
    """Answer the requests of a session until it is closed.

    Raises
    ------
    UsageError
        It is no session, or one with another far end.
    """
    given = _read_settings(requests)
    why = _why_not(section, given)
    nonce = given.get("nonce", "").encode()
    if why and not nonce:
        raise UsageError(why)

    def answer(fine: bool, content: bytes) -> None:
        answers.write(b"%s %s %d\n" % (nonce, b"ok" if fine else b"no", len(content)) + content)
        answers.flush()

    if why:
        answer(False, why.encode())
        return
    tools = {tool: algorithm for algorithm, tool in checksum.COMMANDS.items()}
    receiver = _Receiver(section, tools[given["sum"]])
    while line := requests.readline(_LONGEST_LINE):
        found = session.REQUEST.fullmatch(line)
        if not found:
            answer(False, b"a request is not understood here: install the same version of dbbbatch")
            raise UsageError("stdin is not a session of dbbbatch")
        operation, attempt, _, size, argument = (part.decode() for part in found.groups())
        limit = max(1, int(found[3]))
        source = _in_time(requests, limit)
        signal.alarm(limit + _GRACE)
        try:
            if operation == "put":
                receiver.put(attempt, argument, _blocks(source, int(size)))
                content = b""
            elif operation == "unpack":
                content = receiver.unpack(attempt, tar.Reader(source, int(size)))
            elif operation == "append":
                content = receiver.append(argument, source, int(size))
            else:
                content = receiver.answer(operation, attempt, argument, limit)
        except (DbbError, OSError) as error:
            answer(False, _reason(error, section).encode("utf-8", "surrogateescape"))
            if operation in ("put", "unpack", "append"):
                return  # what it sends next may be a part of this
        else:
            answer(True, content)
        signal.alarm(0)


def _read_settings(requests: io.BufferedIOBase) -> dict[str, str]:
    """Read what precedes the script, and the script, which is forgotten."""
    given: dict[str, str] = {}
    length = 0
    while line := requests.readline(_LONGEST_LINE):
        if line == session.END_OF_SCRIPT.encode() + b"\n":
            return given
        length += len(line)
        if (found := _SETTING.fullmatch(line)) and found[1].decode() not in given:
            given[found[1].decode()] = found[2].decode()
        elif length == len(line) or length > _LONGEST_SCRIPT:
            break
    raise UsageError("stdin is not a session of dbbbatch")


def _why_not(section: Receive, given: dict[str, str]) -> str:
    """Return why a session is not served; '' if it is."""
    if given.get("protocol") != session.PROTOCOL:
        return "the two ends have different versions of dbbbatch: install the same one"
    for key in ("staging", "buffer"):
        if os.path.normpath(given.get(key, "")) != getattr(section, key):
            return (
                f"this key delivers to the {key} {getattr(section, key)}: write that as {key} of "
                f"the handoff's endpoint, not {given.get(key)}"
            )
    if given.get("sum") not in checksum.COMMANDS.values():
        return f"{given.get('sum')} is no command for checksums"
    return ""


def _blocks(source: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        block = source(min(size, 1 << 16))
        if not block:
            raise UsageError("stdin ends within a list")
        size -= len(block)
        yield block


def _in_time(requests: io.BufferedIOBase, limit: int) -> Callable[[int], bytes]:
    """Return what reads so many bytes, and begins the time limit anew whenever some arrive."""

    def read(size: int) -> bytes:
        found = b""
        while len(found) < size:
            signal.alarm(limit + _GRACE)
            some = requests.read1(size - len(found))
            if not some:
                break
            found = found + some if found else some
        return found

    return read


def _reason(error: DbbError | OSError, section: Receive) -> str:
    if isinstance(error, DbbError):
        return str(error)
    where = names.printable(os.fsdecode(error.filename or section.staging))
    return f"{where}: {error.strerror or error}"


def _checked(attempt: str) -> str:
    """Return the name of an attempt that is an argument; raise if it is none."""
    if not session.ATTEMPT.fullmatch(attempt):
        raise Refused(f"{attempt!r} is no name of an attempt")
    return attempt


def _in(attempt: str, *parts: str) -> str:
    return "/".join((attempt, *parts))


class _Receiver:
    """What is done at each request: a method ``_op_NAME`` for the operation NAME."""

    def __init__(self, section: Receive, algorithm: str) -> None:
        self._section = section
        self._algorithm = algorithm
        self._opened: tuple[Tree, Tree] | None = None
        self._resumed: io.FileIO | None = None

    def answer(self, operation: str, attempt: str, argument: str, limit: int) -> bytes:
        """Return the answer to a request.

        Parameters
        ----------
        operation, attempt, argument : `str`
        limit : `int`
            Seconds.

        Raises
        ------
        DbbError, OSError
            It cannot be done.
        """
        work: Callable[[str, str], bytes] | None = getattr(self, f"_op_{operation}", None)
        if work is None:
            raise Refused(f"there is no operation {operation} here: install the same version")
        # The attempt may have been taken over by another pass: then its name is another one.
        self._staging.forget()
        end = time.monotonic() + limit
        try:
            with checksum.heeding(lambda: time.monotonic() > end):
                return work(attempt, argument)
        except Interrupted:
            raise Refused(f"reading files did not end within its time limit of {limit} s") from None

    def put(self, attempt: str, name: str, blocks: Iterable[bytes]) -> None:
        """Keep a list of names in the directory of an attempt."""
        if name not in _LISTS:
            raise Refused(f"{name!r} is no list of an attempt")
        self._staging.forget()
        self._write(_in(attempt, name), blocks)

    def unpack(self, attempt: str, archive: tar.Reader) -> bytes:
        """Unpack files that were announced; return why some could not be."""
        self._close_resumed()
        self._staging.forget()
        announced = set(self._list(attempt, "names"))
        complaints = []
        try:
            for member in archive:
                rel = os.fsdecode(member.raw)
                if rel not in announced:
                    raise Refused(f"{names.printable(rel)}: was not announced")
                announced.discard(rel)
                try:
                    self._unpack(_in(attempt, "t", rel), member, archive.content())
                except OSError as error:  # the others may arrive nevertheless
                    if error.errno in faults.FULL:
                        self._staging.remove(_in(attempt, "t", rel))
                    complaints.append(_reason(error, self._section))
        except tar.NoArchive as error:
            raise Refused(f"what is sent is no archive: {error}") from None
        except EOFError:
            raise Refused("the archive ends too early") from None
        return "\n".join(complaints).encode("utf-8", "surrogateescape")

    def _unpack(self, path: str, member: tar.Member, blocks: Iterable[bytes]) -> None:
        """Write a file that arrives; its time and its permissions tell that it is finished."""
        self._make(self._staging, names.split(path)[0], 0o755)
        self._staging.remove(path)
        descriptor = self._staging.create(path)
        try:
            with faults.naming(f"{self._staging.path}/{path}"):
                for block in blocks:
                    place.write_block(descriptor, memoryview(block))
                place.set_mtime(descriptor, member.mtime_ns)
                os.fchmod(descriptor, place.masked(member.mode))
        finally:
            os.close(descriptor)

    def append(self, shape: str, source: Callable[[int], bytes], size: int) -> bytes:
        """Append what follows to the file of the last `resume`; return why it could not be.

        Parameters
        ----------
        shape : `str`
            Where it begins, the permissions of the file, and its time.
        source : `~collections.abc.Callable`
            Returns so many bytes.
        size : `int`
            How many bytes follow.
        """
        resumed, self._resumed = self._resumed, None
        found = _SHAPE.fullmatch(shape)
        if resumed is None or found is None or resumed.tell() != int(found[1]):
            raise Refused("what is sent is no rest of a file that was resumed")
        complaint = b""
        with resumed as file:
            while size:
                block = source(min(size, 1 << 16))
                if not block:
                    raise Refused("what is sent ends too early")
                size -= len(block)
                if not complaint:
                    try:
                        place.write_block(file.fileno(), memoryview(block))
                    except OSError as error:
                        complaint = os.fsencode(_reason(error, self._section))
            place.set_mtime(file.fileno(), int(found[3]) * 10**9 + int(found[4]))
            os.fchmod(file.fileno(), place.masked(int(found[2], 8)))
        return complaint

    @property
    def _staging(self) -> Tree:
        return self._roots()[0]

    @property
    def _buffer(self) -> Tree:
        return self._roots()[1]

    def _roots(self) -> tuple[Tree, Tree]:
        if self._opened is None:
            trees = []
            for root in (self._section.staging, self._section.buffer):
                try:
                    trees.append(Tree(root))
                except (FileNotFoundError, NotADirectoryError):
                    raise Refused(f"{root} is not there (not mounted?)") from None
                if not os.access(root, os.W_OK | os.X_OK):
                    raise Refused(f"{root}: {NOT_WRITABLE}")
            self._opened = trees[0], trees[1]
        return self._opened

    def _op_hello(self, attempt: str, argument: str) -> bytes:
        staging, buffer = self._roots()
        if os.fstat(staging.directory().fd).st_dev != os.fstat(buffer.directory().fd).st_dev:
            raise Refused(
                f"staging {staging.path} and buffer {buffer.path} are on different file systems"
            )
        return b""

    def _op_begin(self, attempt: str, argument: str) -> bytes:
        self._staging.make_directory(attempt, 0o755)
        self._staging.make_directory(_in(attempt, "t"), 0o755)
        return b""

    def _op_look(self, attempt: str, argument: str) -> bytes:
        if argument == "links":
            for rel in self._list(attempt, "dirs"):
                self._make(
                    self._staging, _in(attempt, "t", rel) if rel else _in(attempt, "t"), 0o755
                )
            parts = os.fsdecode(self._read(attempt, "numbered")).split("\0")[:-1]
            for number, below in zip(parts[::2], parts[1::2], strict=True):
                if not number.isdigit() or (below != "." and names.is_astray(below)):
                    raise Refused("a link in staging is a number, and leads below t/")
                self._staging.link_to(f"t/{below}", _in(attempt, number))
        return self._op_space(attempt, "") + b"\n" + self._there(self._list(attempt, "names"))

    def _op_verify(self, attempt: str, wanted: str) -> bytes:
        self._require(attempt)
        rels = self._list(attempt, "names")
        looks: dict[str, os.stat_result] = {}
        sums, sizes = [], []
        for rel in rels:
            with suppress(OSError):
                sums.append(self._sum(self._staging, _in(attempt, "t", rel), rel, looks))
                sizes.append(b"%d\0" % looks[rel].st_size)
        answer = b"".join(sums + sizes)
        found = checksum.ALGORITHMS[self._algorithm]()
        found.update(answer)
        if found.hexdigest() != wanted:
            # If the attempt has gone meanwhile, its files may have arrived whole.
            self._staging.forget()
            self._require(attempt)
            return answer
        self._close(attempt, looks)
        self._staging.sync_file_system()
        # Not in the directory of a pass that has taken it over meanwhile.
        self._staging.forget()
        for name in ("verified", "single"):
            self._staging.remove(_in(attempt, name))
        if all(status.st_nlink == 1 for status in looks.values()):
            self._write(_in(attempt, "single"), ())
        self._staging.move(_in(attempt, "names"), self._staging, _in(attempt, "verified"))
        self._staging.sync([attempt, ""])
        return b"verified"

    def _require(self, attempt: str) -> None:
        if self._staging.status(_in(attempt, "t")) is None:
            raise Refused(f"{self._staging.path}/{attempt} is gone")

    def _op_place(self, attempt: str, argument: str) -> bytes:
        rels = self._receipt(attempt)
        parents = self._make_above(rels)
        single = attempt.endswith(".r") and self._staging.status(_in(attempt, "single"))
        kept: dict[str, str] = {}
        for rel in rels:
            try:
                self._place(_in(attempt, "t", rel), rel, linked=bool(single))
            except OSError as error:
                kept[rel] = _reason(error, self._section)
        self._sync(parents)
        if not kept:
            return b""
        answer, closed = b"", dict[str, bool]()
        for rel, why in kept.items():
            above, raw = names.split(rel)[0], os.fsencode(rel)
            if above not in closed:
                closed[above] = bool(self._refusal(attempt, above))
            answer += b"C./%s\0" % raw if closed[above] else b""
            answer += b"M%s\0K./%s\0" % (os.fsencode(why), raw)
        if refusal := self._refusal(attempt, ""):
            raise Refused(f"no file can be placed in {self._buffer.path}: {refusal}")
        return answer + self._there(kept)

    def _op_trial(self, attempt: str, argument: str) -> bytes:
        self._op_begin(attempt, "")
        ours, name = [_in(attempt, part) for part in ("1", "2")], f"{TEMPORARY_PREFIX}{attempt}"
        try:
            for path in ours:
                self._write(path, ())
            first = self._staging.status(ours[0])
            self._staging.move(ours[0], self._buffer, name)
            with suppress(FileExistsError):
                self._staging.move(ours[1], self._buffer, name)
            there = self._buffer.status(name)
            if first is None or there is None or not os.path.samestat(first, there):
                raise Refused(f"a file in {self._buffer.path} was overwritten in a trial")
        finally:
            self._op_clean(attempt, "")
        return b""

    def _op_tryplace(self, attempt: str, argument: str) -> bytes:
        rels = self._receipt(attempt)
        if not all(names.split(rel)[1].startswith(PROBE_PREFIX) for rel in rels):
            raise Refused("only files of ours are placed on trial")
        self._make_above(rels)
        for rel in rels:
            self._buffer.remove(rel)
            try:
                self._staging.move(_in(attempt, "t", rel), self._buffer, rel)
            except OSError as error:
                raise Refused(
                    f"no such file can be placed in {self._buffer.path}: {error.strerror}"
                ) from None
            self._buffer.remove(rel)
        return b""

    def _op_take_over(self, attempt: str, argument: str) -> bytes:
        taken = f"{attempt}.r"
        if self._staging.status(attempt):
            self._staging.move(attempt, self._staging, taken)
        if self._staging.status(taken) is None:
            return b"nothing"
        if self._staging.status(_in(taken, "verified")):
            return b"verified"
        return b"arrived" if self._staging.status(_in(taken, "t")) else b"nothing"

    def _op_keep(self, attempt: str, kept: str) -> bytes:
        if self._staging.status(attempt) and not self._staging.status(_checked(kept)):
            self._staging.move(attempt, self._staging, kept)
            os.utime(kept, dir_fd=self._staging.directory().fd, follow_symlinks=False)
        return b""

    def _op_resume(self, attempt: str, kept: str) -> bytes:
        """Copy what was kept, for whoever wrote it may still be at work, and begin to append."""
        (rel,) = self._list(attempt, "names")
        path, answer = _in(attempt, "t", rel), b""
        self._close_resumed()
        try:
            part = self._staging.open(_in(_checked(kept), "t", rel))
        except (FileNotFoundError, NotADirectoryError, checksum.NotRegular):
            return answer
        try:
            self._make(self._staging, names.split(path)[0], 0o755)
            file = self._resumed = io.FileIO(self._staging.create(path), "w")
            write = partial(place.write_block, file.fileno())
            digest = checksum.stream(part, [self._algorithm], write)[self._algorithm]
            answer = b"%d %s" % (file.tell(), digest.encode())
        except (OSError, Interrupted):  # then all of it is sent
            self._close_resumed()
            self._staging.remove(path)
        finally:
            os.close(part)
        self._discard(kept)
        return answer

    def _op_modes_and_times(self, attempt: str, argument: str) -> bytes:
        found = []
        for rel in self._list(attempt, "names"):
            with suppress(NotADirectoryError):
                if status := self._staging.status(_in(attempt, "t", rel)):
                    shape = b"%d %o" % (status.st_mtime_ns // 10**9, stat.S_IMODE(status.st_mode))
                    found.append(b"%s  ./%s\0" % (shape, os.fsencode(rel)))
        return b"".join(found)

    def _op_receipt(self, attempt: str, argument: str) -> bytes:
        return self._read(attempt, "verified")

    def _op_partials(self, attempt: str, directory: str) -> bytes:
        if not PARTIALS.fullmatch(directory):
            raise Refused(f"partial files are expected in {self._staging.path}/…partial")
        removed = 0
        for rel in self._list(attempt, "names"):
            path = f"{directory}/{names.split(rel)[1]}"
            status = self._staging.status(path)
            if status and stat.S_ISREG(status.st_mode):
                self._staging.remove(path)
                removed += 1
        return b"%d" % removed

    def _op_space(self, attempt: str, argument: str) -> bytes:
        found = os.fstatvfs(self._staging.directory().fd)
        return b"%d %d" % (found.f_bavail, found.f_frsize)

    def _op_end(self, attempt: str, argument: str) -> bytes:
        """End what a transfer left running: its command line has a path in the attempt."""
        path = f"{self._staging.path}/{attempt}/".encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError), open(f"/proc/{entry.name}/cmdline", "rb") as file:
                    if path in file.read():
                        os.kill(int(entry.name), signal.SIGKILL)
        return b""

    def _op_clean(self, attempt: str, argument: str) -> bytes:
        self._buffer.remove(f"{TEMPORARY_PREFIX}{attempt}")
        for each in (attempt, f"{attempt}.r"):
            self._discard(each)
        return b""

    def _discard(self, attempt: str) -> None:
        """Remove a directory of staging: first it gets a name under which no step looks for it."""
        if self._staging.status(attempt):
            self._staging.remove_tree(f"{attempt}.x")
            self._staging.move(attempt, self._staging, f"{attempt}.x")
        self._staging.remove_tree(f"{attempt}.x")

    def _close_resumed(self) -> None:
        if self._resumed is not None:
            self._resumed.close()
            self._resumed = None

    def _op_list(self, prefix: str, argument: str) -> bytes:
        now = self._now()
        lines = []
        for name in self._staging.names():
            status = self._staging.status(name) if name.startswith(prefix) else None
            if status and stat.S_ISDIR(status.st_mode):
                age = now - int(status.st_mtime)
                if age < 0:  # its clock was ahead: it ages from now on
                    os.utime(name, dir_fd=self._staging.directory().fd, follow_symlinks=False)
                lines.append(f"{age} {name}\n")
        return os.fsencode("".join(lines))

    def _now(self) -> int:
        """Return the time of the clock that stamps files in staging, if that can be had."""
        root = self._staging.directory()
        with suppress(OSError):
            os.utime(".", dir_fd=root.fd)
            return int(os.fstat(root.fd).st_mtime)
        return int(time.time())

    def _write(self, rel: str, blocks: Iterable[bytes], mode: int = 0o644) -> None:
        """Write a file of ours, in the place of one with its name."""
        self._staging.remove(rel)
        descriptor = self._staging.create(rel, mode)
        length = 0
        try:
            with faults.naming(f"{self._staging.path}/{rel}"):
                for block in blocks:
                    length += len(block)
                    if length > _LONGEST_LIST:
                        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
                    place.write_block(descriptor, memoryview(block))
        finally:
            os.close(descriptor)

    def _read(self, attempt: str, name: str) -> bytes:
        with open(self._staging.open(_in(attempt, name)), "rb") as file:
            return file.read()

    def _list(self, attempt: str, name: str) -> list[str]:
        """Return the relative paths of a list, of which the root is ''."""
        found = []
        for path in self._read(attempt, name).split(b"\0")[:-1]:
            rel = os.fsdecode(path[2:])
            if path != b"." and (path[:2] != b"./" or names.is_astray(rel)):
                raise Refused(f"{names.printable(os.fsdecode(path))}: is no path of a file")
            found.append(rel)
        return found

    def _receipt(self, attempt: str) -> list[str]:
        try:
            return self._list(attempt, "verified")
        except FileNotFoundError:
            raise Refused(f"attempt {attempt} was not verified") from None

    def _sum(self, tree: Tree, path: str, rel: str, looks: dict[str, os.stat_result]) -> bytes:
        """Return the record of a file's checksum, and note what was read."""
        descriptor = tree.open(path)
        try:
            looks[rel] = os.fstat(descriptor)
            digest = checksum.stream(descriptor, [self._algorithm])[self._algorithm]
        finally:
            os.close(descriptor)
        return b"%s  ./%s\0" % (digest.encode(), os.fsencode(rel))

    def _there(self, rels: Iterable[str]) -> bytes:
        """Return records of what the buffer has that keeps files from being placed."""
        found = []
        for rel in rels:
            raw = os.fsencode(rel)
            try:
                if self._buffer.status(rel) is None:
                    continue
            except NotADirectoryError:
                found.append(b"D./%s\0" % raw)
                continue
            found.append(b"E./%s\0" % raw)
            with suppress(OSError):
                found.append(self._sum(self._buffer, rel, rel, {}))
        return b"".join(found)

    def _close(self, attempt: str, looks: dict[str, os.stat_result]) -> None:
        """Take set-id bits, and permission to write, from what was verified: it is complete."""
        left: set[int] = set()
        why = ""
        for rel, status in looks.items():
            if not status.st_mode & _LOOSE:
                left.add(stat.S_IMODE(status.st_mode))
                continue
            descriptor = self._staging.open(_in(attempt, "t", rel))
            try:
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~_LOOSE)
            except OSError as error:
                why = error.strerror or why
            left.add(stat.S_IMODE(os.fstat(descriptor).st_mode))
            os.close(descriptor)
        # Some file systems keep their own modes. Write permission of the account is tolerated.
        loose = any(mode & _LOOSE_OTHERS for mode in left)
        if loose and not (len(left) == 1 and self._shows_one_mode(attempt, left.pop())):
            raise Refused(
                f"{self._staging.path}/{attempt}/t: set-id bits, or write permission of group or "
                f"others, cannot be taken away: {why}"
            )

    def _shows_one_mode(self, attempt: str, mode: int) -> bool:
        """Return whether the file system shows a mode for all files, whatever they have."""
        self._write(path := _in(attempt, "plain"), (), 0o600)
        status = self._staging.status(path)
        self._staging.remove(path)
        shown = stat.S_IMODE(status.st_mode) if status else 0o600
        return shown == mode != 0o600 and mode <= 0o777

    def _place(self, source: str, rel: str, *, linked: bool) -> None:
        """Move a verified file into the buffer, unless that was done already."""
        status = self._staging.status(source)
        if status is None:
            return
        if linked and status.st_nlink > 1:
            # Its only name was in t/: the other one is from a link into the buffer, wherever the
            # finder has moved that.
            self._staging.remove(source)
            return
        self._staging.move(source, self._buffer, rel)

    def _make_above(self, rels: Sequence[str]) -> list[str]:
        """Make the directories of files in the buffer; return them, and those above them."""
        raw = session.directories(map(os.fsencode, rels))
        found = [os.fsdecode(path[2:]) for path in raw]
        for rel in found[1:]:
            self._make(self._buffer, rel)
        return found

    def _make(self, tree: Tree, rel: str, mode: int | None = None) -> None:
        """Make a directory, if it can be: else the files in it fail by themselves."""
        try:
            tree.make_directories(rel, mode)
        except OSError as error:
            if error.errno in faults.FULL:
                raise

    def _sync(self, directories: Iterable[str]) -> None:
        """Make names in the buffer durable; where a directory cannot be opened, all of them."""
        try:
            self._buffer.sync(directories)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            self._buffer.sync_file_system()

    def _refusal(self, attempt: str, directory: str) -> str:
        """Return why a directory of the buffer takes not even a file of ours; '' if it does."""
        ours = _in(attempt, "probe")
        there = names.join(directory, f"{TEMPORARY_PREFIX}{attempt.removesuffix('.r')}")
        try:
            self._write(ours, ())
            self._buffer.remove(there)
            self._staging.move(ours, self._buffer, there)
            self._buffer.remove(there)
        except OSError as error:
            return error.strerror or str(error)
        return ""
