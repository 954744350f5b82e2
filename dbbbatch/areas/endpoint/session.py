"""The far end of a handoff: one session that prepares, verifies and places for many batches.

A session is one run of the ``remote`` command of an endpoint (or of a shell on this machine). Its
command line is short and holds no names; the script (far_end.sh) and all data follow on its stdin,
byte-counted, and answers carry a nonce, so that a banner does no harm.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, Self, TypeVar

from dbbbatch.areas.endpoint.stream import MOST_AT_ONCE, Outgoing, Rest, Stream, TarStream
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files import checksum, names
from dbbbatch.files.fence import fence
from dbbbatch.process import run, template

#: What programs say last where there is no room, though there may be free bytes.
FULL_WORDS = ("No space left on device", "Disk quota exceeded")

#: Seconds for an answer that takes no time by itself: connecting, listing, renaming.
PATIENCE = 60.0

#: Seconds for which a session sends where the rate is limited: of 64, each waits a few seconds.
_SENDING_TURN = 0.1

#: Seconds between the time limit there and the one here, so that its reason arrives.
SPARE = 10.0

#: The most bytes of noise before an answer.
_MOST_NOISE = 1 << 20

#: The most bytes of an answer about files whose names this session has not sent (those of a pass
#: that was killed); and for each name that it has sent, beside the name itself: its checksum, and
#: why it cannot be placed.
_MOST_ANSWER = 16 << 20
_MOST_EACH = 1024

#: What the far end does at each request, for the message that it takes too long.
_STEPS = {
    "hello": "looking for its tools and directories",
    "begin": "trying its tools in staging",
    "put": "taking a list of names",
    "unpack": "unpacking what is sent",
    "append": "appending what is sent",
    "keep": "keeping what arrived",
    "resume": "copying and reading what arrived before",
    "look": "making the directories of a batch",
    "verify": "reading what arrived, and making it durable with `sync`",
    "place": "placing files in its buffer, and making that durable with `sync`",
    "trial": "placing a file on trial",
    "tryplace": "placing files of ours on trial",
    "partials": "removing what interrupted transfers left",
    "take_over": "looking for what a pass left",
    "modes_and_times": "looking at what arrived",
    "receipt": "reading what a pass left",
    "space": "asking how much space is free",
    "end": "ending what a transfer left",
    "clean": "removing files from staging",
    "list": "listing staging",
}
#: What requests and answers look like; a receiver answers only its own.
PROTOCOL = "1"

#: A request: operation, attempt, time limit, bytes that follow, and an argument.
REQUEST = re.compile(
    rb"([a-z_]+) (-|[A-Za-z0-9_-][A-Za-z0-9._-]*) (\d{1,7}) (\d{1,19}) ([A-Za-z0-9._/-]*)\n"
)

#: The longest time limit of a request (seconds): some months, in which no disk is waited for.
_LONGEST_LIMIT = 9_999_999

#: The command line that is run there: one argument, read alike by sh, bash, csh and fish. The
#: shell itself reads the script, and not a byte of what follows it, which programs may. A receiver
#: (receiver.py) knows the command line, and runs neither it nor the script.
END_OF_SCRIPT = "# end of script"
READ_SCRIPT = (
    'exec sh -c \'n=$(printf "\\nx"); n=${n%x}; s=; while IFS= read -r l; do '
    f'[ "$l" != "{END_OF_SCRIPT}" ] || break; s=$s$l$n; done; eval "$s"\''
)

#: Far ends whose tools were tried by this process. The next pass tries them again: they may be
#: others by then.
_tried: set[tuple[object, ...]] = set()

_SAFE = re.compile(r"[A-Za-z0-9._/-]+")

#: The name of an attempt.
ATTEMPT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

#: The states in which `take_over` may find an attempt.
_STATES = ("verified", "arrived", "nothing")

#: Instead of a digest: something that is no directory has the name of the file's directory.
NO_DIRECTORY = "no directory"


class Away(TryLater):
    """The far end does not answer, or no longer: the network's fault, or its host's."""


class Refused(TryLater):
    """The far end answers, but cannot do what it is asked."""


class _Ended(Exception):
    """The session's command has closed its output."""


class Expected(Protocol):
    """A file as it must arrive: relative path, size, and digest by the endpoint's algorithm."""

    @property
    def raw(self) -> bytes:
        """Its relative path."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def digest(self) -> str:
        """Hexadecimal."""


ExpectedFile = TypeVar("ExpectedFile", bound=Expected)


@dataclass(frozen=True)
class Placed:
    """What came of placing.

    Attributes
    ----------
    kept : `dict` [ `bytes`, `str` ]
        Relative paths of files that could not be placed and are still in staging, and why.
    taken : `dict` [ `bytes`, `str` or `None` ]
        Those of them whose name is taken, as `Session.begin` returns it.
    closed : `frozenset` [ `bytes` ]
        Those of them whose directory takes not even a file of ours.
    """

    kept: Mapping[bytes, str] = field(default_factory=dict)
    taken: Mapping[bytes, str | None] = field(default_factory=dict)
    closed: frozenset[bytes] = frozenset()


class _Sent(NamedTuple):
    """A file as it was sent."""

    raw: bytes
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Streamed:
    """What came of sending files as a stream.

    Attributes
    ----------
    outcomes : `dict` [ `bytes`, `str` or `OSError` ]
        Of each file the checksum of what was sent, or why that is not the file: then it must not be
        verified.
    complaint : `str`
        Why some of the others may not have arrived; '' if there is nothing to complain of.
    """

    outcomes: Mapping[bytes, str | OSError]
    complaint: str


@dataclass(frozen=True)
class EndpointAddress:
    """Where a far end is and how to reach it.

    Attributes
    ----------
    buffer, staging : `str`
        Directories there; letters, digits and ``._/-`` only.
    remote : `template.Command` or `None`
        How to run a command there; `None`: it is this machine.
    values : `~collections.abc.Mapping` [ `str`, `bytes` ]
        What the placeholders of commands stand for.
    algorithm : `str`
        Of checksums.
    unpacks : `bool`
        Files are sent by `Session.stream`, so it needs `tar`.
    bandwidth : `float` or `None`
        Most bytes a second that all sessions together send; `None`: no limit.
    """

    buffer: str
    staging: str
    remote: template.Command | None
    values: Mapping[str, bytes]
    algorithm: str = checksum.DEFAULT
    unpacks: bool = False
    bandwidth: float | None = None

    @property
    def most_at_once(self) -> int:
        """The most bytes that a session sends before others send: all have their turn in time."""
        if self.bandwidth is None:
            return MOST_AT_ONCE
        return int(min(max(1.0, self.bandwidth * _SENDING_TURN), MOST_AT_ONCE))

    @property
    def further_tools(self) -> str:
        """The argument of requests that look for tools, or try them."""
        return "tar" if self.unpacks else ""

    @property
    def name(self) -> str:
        """What an operator calls it."""
        host = self.values.get("host") if self.remote else None
        return os.fsdecode(host) if host else "the endpoint"

    @property
    def key_of_silence(self) -> str:
        """The key of the trouble that it does not answer, in whatever words ssh says so."""
        return f"{self.name if self.remote else self.staging} does not answer"

    def argv(self, command: str) -> list[bytes]:
        """Return the arguments by which a command line (for a shell) is run there."""
        if self.remote is None:
            return [b"sh", b"-c", os.fsencode(command)]
        return self.remote.argv({**self.values, "command": os.fsencode(command)})


class Session:
    """A conversation with the far end; opened when first needed, closed by `close`.

    Every method raises `Away` if the far end does not answer in time, after which the next one
    begins a new conversation, and `Refused` if it cannot do what it is asked. Only one thread uses
    a session.
    """

    def __init__(self, place: EndpointAddress, patience: float = PATIENCE) -> None:
        for path in (place.buffer, place.staging):
            if not _SAFE.fullmatch(path):
                raise ConfigError(f"{path!r}: only letters, digits and . _ / - may stand in it")
        self.place = place
        self._patience = patience
        self._process: run.Process | None = None
        self._nonce = b""
        self._asked = b""
        self._unnamed = False
        self._unread = bytearray()
        self._longest_answer = _MOST_ANSWER
        self._argv = place.argv(READ_SCRIPT)
        self._tools: tuple[object, ...] = (
            *self._argv,
            place.staging,
            place.buffer,
            place.algorithm,
            place.unpacks,
        )

    def __enter__(self) -> Self:
        """Return the session, which is opened when first needed."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()

    def open(self) -> None:
        """Connect, and check that the far end has what it needs."""
        if self._process is None:
            self._connect()

    @property
    def is_open(self) -> bool:
        """Whether there is a conversation, as far as we know."""
        return self._process is not None

    def close(self) -> None:
        """End the conversation."""
        if self._process is not None:
            process = self._let_go(self._process)
            process.finish(time.monotonic() + run.GRACE)

    def begin(
        self, attempt: str, names: Iterable[bytes], links: Sequence[bytes] = (), limit: float = 0
    ) -> tuple[int, Mapping[bytes, str | None]]:
        """Make the staging directory of an attempt, and look at the buffer.

        Parameters
        ----------
        attempt : `str`
            Its name, never used before.
        names : `~collections.abc.Iterable` [ `bytes` ]
            Relative paths of the files to come.
        links : `~collections.abc.Sequence` [ `bytes` ]
            Directories to which the transfer needs numbered links: 1, 2, ….
        limit : `float`
            Seconds beside the usual patience.

        Returns
        -------
        free_bytes : `int`
            Free space at the staging area.
        taken : `dict` [ `bytes`, `str` or `None` ]
            Relative paths that the buffer has already, with their digest (`None`: no file, or it
            could not be read), and those below `NO_DIRECTORY`.
        """
        names = list(names)
        begin = self._request("begin", attempt, limit)
        if untried := self._tools not in _tried:
            # Before anything that a tool at fault might take for something else.
            tools = "-".join(filter(None, ("tools", self.place.further_tools)))
            self._ask([self._request("begin", attempt, limit, tools)], limit=limit)
            _tried.add(self._tools)
        numbered = [part for n, rel in enumerate(links, 1) for part in (b"%d" % n, rel or b".")]
        answer = self._ask(
            [
                *(() if untried else (begin,)),
                self._put(attempt, "dirs", directories(names)),
                self._put(attempt, "names", map(_as_argument, names)),
                *((self._put(attempt, "numbered", numbered),) if links else ()),
                self._request("look", attempt, limit, "links" if links else ""),
            ],
            limit=limit,
        )
        space, _, rest = answer.partition(b"\n")
        with self._understanding(space):
            return _bytes(space), _parse_records(rest).taken

    def verify(
        self, attempt: str, files: Sequence[ExpectedFile], limit: float, again: bool = False
    ) -> list[ExpectedFile]:
        """Compare size and checksum of what arrived with what was sent.

        Those that are right are made durable there and become the attempt's receipt.

        Parameters
        ----------
        attempt : `str`
        files : `~collections.abc.Sequence` [ `Expected` ]
            Those whose names were given to `begin`, or then to `stream`, in that order, unless
            `again`.
        limit : `float`
            Seconds for reading them there.
        again : `bool`
            Send the names once more: they are others, or in another order.

        Returns
        -------
        right : `list` [ `Expected` ]
        """
        while files:
            requests = [self._request("verify", attempt, limit, self._sum_of(files))]
            if _without_limit(self._asked) == _without_limit(requests[0]):
                self._asked = b""  # at the end of the stream; here is its answer
                answer = self._ask(requests, limit=limit, data=b"")
            else:
                if again or self._unnamed:
                    self._unnamed = False
                    names = (_as_argument(file.raw) for file in files)
                    requests.insert(0, self._put(attempt, "names", names))
                answer = self._ask(requests, limit=limit)
            if answer == b"verified":
                return list(files)
            sums = _parse_records(answer).taken
            right = [file for file in files if sums.get(file.raw) == file.digest]
            if len(right) == len(files):
                raise Refused(f"{self.place.name}: sizes differ although checksums are right")
            files, again = right, True
        return []

    def stream(
        self,
        attempt: str,
        files: Sequence[Outgoing],
        stall: float,
        pace: Callable[[int], object] | None = None,
        limit: float | None = None,
    ) -> Streamed:
        """Send files to an attempt that has begun, within this conversation.

        If `limit` is given, and all of them can be read, the far end verifies them at once: then
        `verify` with the same files only waits for the answer.

        Parameters
        ----------
        attempt : `str`
        files : `~collections.abc.Sequence` [ `Outgoing` ]
            These are the names of the attempt from now on.
        stall : `float`
            Seconds for which the far end may take nothing; a transfer may last as long as it takes.
        pace : `~collections.abc.Callable`, optional
            Called before each block with its length; may wait.
        limit : `float`, optional
            Seconds for reading them there.
        """
        sent = TarStream(files, self.place.algorithm, self.place.most_at_once)
        put = self._put(attempt, "names", (_as_argument(file.raw) for file in files))
        unpack = self._request("unpack", attempt, stall, "", sent.size_bytes)

        def verify() -> bytes:
            whole = [
                _Sent(file.raw, file.size_bytes, outcome)
                for file in files
                if isinstance(outcome := sent.outcomes[file.raw], str)
            ]
            if limit is None or len(whole) < len(files):
                return b""
            return self._request("verify", attempt, limit, self._sum_of(whole))

        return self._send([put, unpack], sent, stall, pace, verify)

    def keep(self, attempt: str, kept: str, limit: float = 0) -> None:
        """Keep what there is of an attempt under another name, unless something is kept there."""
        self._checked(kept)
        self._ask([self._request("keep", attempt, limit, kept)], limit=limit)

    def kept_part(
        self, attempt: str, raw: bytes, kept: str, limit: float
    ) -> tuple[int, str] | None:
        """Copy what was kept of a file to an attempt that has begun, and remove what was kept.

        Parameters
        ----------
        attempt : `str`
        raw : `bytes`
            Its relative path, the only one that was given to `begin`.
        kept : `str`
            As it was given to `keep`.
        limit : `float`
            Seconds for copying and reading it there.

        Returns
        -------
        size_bytes : `int`
        digest : `str`
            Of this part; there may be no such part.
        """
        self._checked(kept)
        put = self._put(attempt, "names", [_as_argument(raw)])
        resume = self._request("resume", attempt, limit, kept)
        # It may take as long for each of copying, reading and removing.
        answer = self._ask([put, resume], limit=3 * limit + 2 * self._patience)
        if not answer:
            return None
        with self._understanding(answer):
            size, digest = answer.split()
            if (size_bytes := _whole_number(size)) < 0:
                raise ValueError
            return size_bytes, digest.decode("ascii", "replace")

    def send_rest(
        self,
        attempt: str,
        file: Outgoing,
        rest: Rest,
        stall: float,
        pace: Callable[[int], object] | None = None,
    ) -> Streamed:
        """Send what is missing of a file after its `kept_part`; otherwise as `stream`."""
        offset = file.size_bytes - rest.size_bytes
        seconds, nanoseconds = divmod(max(0, file.mtime_ns), 10**9)
        shape = f"{offset}/{file.shown_mode:o}/{seconds}.{nanoseconds:09d}"
        append = self._request("append", attempt, stall, shape, rest.size_bytes)
        return self._send([append], rest, stall, pace)

    def place_files(self, attempt: str, limit: float = 0) -> Placed:
        """Move what was verified into the buffer, never onto another file, durably.

        Raises
        ------
        Refused
            Also if some could not be placed, and a file of ours cannot be either.
        LeaseLost
            Another host may take the attempt over.
        """
        fence.require()
        return _parse_records(self._ask([self._request("place", attempt, limit)], limit=limit))

    def trial(self, attempt: str) -> None:
        """Try with two files of ours whether a file can be placed there, and is never overwritten.

        Raises
        ------
        Refused
            It cannot, or it would be.
        """
        self._ask([self._request("trial", attempt, 0, self.place.further_tools)])

    def try_place(self, attempt: str) -> None:
        """Try whether the buffer takes files of ours that were verified, and remove them again.

        Raises
        ------
        Refused
            It does not.
        """
        self._ask([self._request("tryplace", attempt)])

    def take_over(self, attempt: str) -> str:
        """Take over the attempt of a pass that was killed; from now on it is ``ATTEMPT.r``.

        Returns
        -------
        state : `str`
            "verified": `place_files` may be called (again). "arrived": not all was verified.
            "nothing": there is no such attempt.
        """
        answer = self._ask([self._request("take_over", attempt)])
        with self._understanding(answer):
            state = answer.split()[-1].decode()
            if state not in _STATES:
                raise ValueError
            return state

    def modes_and_times(self, attempt: str, names: Iterable[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return the time of modification (seconds) and the permissions of what arrived.

        A transfer that was killed may have left a file whole but not finished: its command sets
        these last.
        """
        request = self._request("modes_and_times", attempt)
        answer = self._ask([self._put(attempt, "names", map(_as_argument, names)), request])
        found = {}
        for record in answer.split(b"\0"):
            shape, _, name = record.partition(b"  ./")
            if name:
                with self._understanding(shape):
                    seconds, mode = shape.split()
                    found[name] = (_whole_number(seconds), int(mode, 8))
        return found

    def receipt(self, attempt: str) -> frozenset[bytes]:
        """Return the relative paths that were verified in an attempt that was taken over."""
        names = self._ask([self._request("receipt", attempt)]).split(b"\0")
        return frozenset(name.removeprefix(b"./") for name in names if name)

    def forget_partials(self, attempt: str, directory: str, names: Iterable[bytes]) -> bool:
        """Remove what interrupted transfers left of files; return whether there was any.

        Parameters
        ----------
        attempt : `str`
        directory : `str`
            Where they leave it, relative to staging, under the last part of the file's name.
        names : `~collections.abc.Iterable` [ `bytes` ]
            Relative paths of the files.
        """
        request = self._request("partials", attempt, 0, directory)
        answer = self._ask([self._put(attempt, "names", map(_as_argument, names)), request])
        return answer.strip() not in (b"", b"0")

    def free_bytes(self) -> int:
        """Return the free space at the staging area, in bytes."""
        answer = self._ask([self._request("space", "-")])
        with self._understanding(answer):
            return _bytes(answer)

    def end(self, attempt: str) -> None:
        """End what the transfer command of an attempt left running there."""
        self._ask([self._request("end", attempt)])

    def clean(self, attempt: str, limit: float = 0) -> None:
        """Remove an attempt's directory, also if it was taken over."""
        self._ask([self._request("clean", attempt, limit)], limit=limit)

    def attempts(self, prefix: str) -> dict[str, float]:
        """Return the attempts whose names begin so, with seconds since their last change."""
        lines = self._ask([self._request("list", prefix)]).split(b"\n")
        found = {}
        for age, name in (line.split(b" ", 1) for line in lines if b" " in line):
            with self._understanding(age):
                found[name.decode("ascii", "replace")] = float(_whole_number(age))
        return found

    @contextmanager
    def _understanding(self, answer: bytes) -> Iterator[None]:
        """Let an answer that cannot be read end the conversation, not the pass."""
        try:
            yield
        except (ValueError, IndexError):
            self.close()
            said = run.last_lines(answer, 80)
            raise self._away(f"{self.place.name}: its answer is not understood: {said!r}") from None

    def _away(self, why: str) -> Away:
        return Away(why, key=self.place.key_of_silence)

    def _connect(self) -> None:
        self._nonce = secrets.token_hex(16).encode()
        self._unread.clear()
        tool = checksum.COMMANDS[self.place.algorithm]
        settings = {
            "nonce": self._nonce.decode(),
            "protocol": PROTOCOL,
            "staging": self.place.staging,
            "buffer": self.place.buffer,
            "sum": tool,
        }
        head = "".join(f"{name}={value}\n" for name, value in settings.items())
        script = head.encode() + Path(__file__).with_name("far_end.sh").read_bytes()
        script += END_OF_SCRIPT.encode() + b"\n"
        self._process = run.Process(self._argv)
        hello = self._request("hello", "-", 0, self.place.further_tools)
        self._ask([hello], data=script + hello)

    def _request(
        self, operation: str, attempt: str, limit: float = 0, argument: str = "", size: int = 0
    ) -> bytes:
        if attempt != "-":
            self._checked(attempt)
        seconds = int(min(self._patience + limit + 1, _LONGEST_LIMIT))
        return f"{operation} {attempt} {seconds} {size} {argument}\n".encode()

    def _checked(self, attempt: str) -> None:
        """Raise if a name, which comes from a row of the database, is no name of a directory."""
        if not ATTEMPT.fullmatch(attempt):
            raise Refused(f"{self.place.name}: {attempt!r} is no name of an attempt")

    def _put(self, attempt: str, name: str, parts: Iterable[bytes]) -> bytes:
        """Return the request to keep a list of names, followed by the list."""
        data = b"".join(part + b"\0" for part in parts)
        # Where a tool names a file in an error it may write four characters for a byte, and twice.
        longest = _MOST_ANSWER + 16 * len(data) + _MOST_EACH * data.count(b"\0")
        self._longest_answer = max(self._longest_answer, longest)
        return self._request("put", attempt, 0, name, len(data)) + data

    def _sum_of(self, files: Sequence[Expected]) -> str:
        """Compute the sum over what the far end will find: sums and names, then sizes."""
        found = checksum.ALGORITHMS[self.place.algorithm]()
        sums = [b"%s  ./%s\0" % (file.digest.encode(), file.raw) for file in files]
        found.update(b"".join([*sums, *(b"%d\0" % file.size_bytes for file in files)]))
        return str(found.hexdigest())

    def _send(
        self,
        requests: Sequence[bytes],
        stream: Stream,
        stall: float,
        pace: Callable[[int], object] | None,
        then: Callable[[], bytes] = bytes,
    ) -> Streamed:
        """Send requests, the stream that the last one announces, and one that is answered later."""
        self.open()
        assert self._process is not None
        self._process.widen()
        try:
            self._process.write(requests, time.monotonic() + stall)
            with closing(stream.blocks()) as blocks:
                for block in blocks:
                    if pace is not None:
                        pace(len(block))
                    self._process.write(block, time.monotonic() + stall)
                    if not self._process.reads:
                        break
            asked = then() if self._process.reads else b""
            self._process.write(asked, time.monotonic() + stall)
            answer = self._ask(requests, stall, data=b"")
            self._asked = asked
        except BaseException as error:
            # Whatever is sent next would be taken for a part of the stream.
            if self._process is not None:
                self._drop()
            if isinstance(error, TimeoutError):
                why = f"{self.place.name} has taken nothing for {stall:.0f} s"
                raise self._away(why) from None
            raise
        return Streamed(stream.outcomes, _complaint(answer, _attempt_of(requests)))

    def _ask(self, requests: Sequence[bytes], limit: float = 0, data: bytes | None = None) -> bytes:
        """Send requests and return the last answer; all are read, so that the next one fits.

        If `data` is given, that is sent, for the requests are a part of it or were sent before.

        Raises
        ------
        Away
            It does not answer in time, or something else than was asked.
        Refused
            It cannot do what it is asked.
        """
        self.open()
        assert self._process is not None
        deadline = time.monotonic() + self._patience + limit + SPARE
        stale, self._asked = bool(self._asked), b""
        found: list[tuple[bool, bytes]] = []
        try:
            self._process.write(b"".join(requests) if data is None else data, deadline)
            if stale:
                # Nobody waited for that answer. If all was verified, the names are a receipt now.
                self._answer(deadline)
                self._unnamed = True
            while len(found) < len(requests):
                found.append(self._answer(deadline))
        except TimeoutError:
            self._drop()
            operation = requests[-1][:20].split(b" ", 1)[0].decode()
            raise self._away(
                f"{self.place.name} has not answered for {self._patience + limit:.0f} s, its time "
                f"limit for {_STEPS.get(operation, operation)}"
            ) from None
        except _Ended:
            # It ends itself where a block of data is refused: then that is the reason.
            finished = self._drop()
            if all(fine for fine, _ in found):
                why = f"{self.place.name} cannot be reached: {finished.summary()}"
                raise self._away(why) from None
        for fine, text in found:
            if not fine:
                if len(found) > 1 and self._process is not None:
                    self._drop()  # a refused block of data may have left some of it unread
                # An attempt has another name each time, and it is the same trouble.
                without = _without(_attempt_of(requests), text)
                reason = run.last_lines(without) or "no reason given"
                raise Refused(f"{self.place.name}: {reason}")
        return found[-1][1]

    def _answer(self, deadline: float) -> tuple[bool, bytes]:
        """Read the next answer, which is bounded by what was asked; so is the noise before it."""
        header = re.compile(self._nonce + rb" (ok|no) (\d{1,18})\n")
        seen = 0
        while not (found := header.search(self._unread, seen)):
            # What may be the beginning of a header is looked at once more.
            seen = max(0, len(self._unread) - len(self._nonce) - 30)
            if seen > _MOST_NOISE:
                words = run.last_lines(bytes(self._unread[:200]))
                self._drop()
                why = f"{self.place.name} prints without end instead of an answer: {words}"
                raise self._away(why)
            self._more(deadline)
        if int(found[2]) > self._longest_answer:
            self._drop()
            raise self._away(
                f"{self.place.name} announces an answer of "
                f"{names.counted(int(found[2]), 'byte')}, where "
                f"{self._longest_answer:,} are the most that was asked for"
            )
        fine, begin, end = found[1] == b"ok", found.end(), found.end() + int(found[2])
        while len(self._unread) < end:
            self._more(deadline)
        content = bytes(self._unread[begin:end])
        del self._unread[:end]
        return fine, content

    def _more(self, deadline: float) -> None:
        assert self._process is not None
        data = self._process.read(deadline)
        if not data:
            raise _Ended
        self._unread += data

    def _let_go(self, process: run.Process) -> run.Process:
        """Note that there is no conversation, and no answer to come."""
        self._process = None
        self._unnamed = self._unnamed or bool(self._asked)
        self._asked = b""
        return process

    def _drop(self) -> run.Finished:
        """End the conversation at once; return how its command ended."""
        assert self._process is not None
        process = self._let_go(self._process)
        with process:
            return process.finish(time.monotonic() + run.GRACE)


def directories(names: Iterable[bytes]) -> list[bytes]:
    """Return the directories of relative paths and all those above them, parents first."""
    found = {b"."}
    for name in names:
        above = name.rpartition(b"/")[0]
        while above and b"./" + above not in found:
            found.add(b"./" + above)
            above = above.rpartition(b"/")[0]
    return sorted(found)


def _as_argument(rel: bytes) -> bytes:
    """Return a relative path as commands are given it: it begins with no dash."""
    return b"./" + rel


def _without_limit(request: bytes) -> list[bytes]:
    words = request.split(b" ")
    return words[:2] + words[3:]


def _attempt_of(requests: Sequence[bytes]) -> bytes:
    return requests[-1].split(b" ", 2)[1]


def _without(attempt: bytes, text: bytes) -> bytes:
    return text.replace(b"/" + attempt, b"/*")


def _complaint(answer: bytes, attempt: bytes) -> str:
    """Return the first line about a full disk, or else the first line, of what `tar` says."""
    lines = [line for line in _without(attempt, answer).splitlines() if line.strip()]
    full = (line for line in lines if any(words.encode() in line for words in FULL_WORDS))
    return run.last_lines(next(full, lines[0])) if lines else ""


def _bytes(space: bytes) -> int:
    """Read free blocks and their size."""
    blocks, size = map(_whole_number, space.split()[-2:])
    return blocks * size


def _whole_number(text: bytes) -> int:
    """Read a whole number of an answer: no size and no time has more digits."""
    if not re.fullmatch(rb"-?\d{1,20}", text):
        raise ValueError
    return int(text)


def _parse_records(answer: bytes) -> Placed:
    """Take an answer apart into kept names and why, and names with their sums."""
    kept: dict[bytes, str] = {}
    sums: dict[bytes, str | None] = {}
    closed = set()
    message = ""
    for record in answer.split(b"\0"):
        kind, rest = record[:1], record[1:]
        name = rest[2:]
        if kind == b"M":
            message = run.last_lines(rest)
        elif kind == b"K":
            kept[name] = message
        elif kind == b"C":
            closed.add(name)
        elif kind == b"D":
            sums[name] = NO_DIRECTORY
        elif kind == b"E":
            sums.setdefault(name)
        elif b"  ./" in record:
            digest, _, name = record.partition(b"  ./")
            sums[name] = digest.decode("ascii", "replace")
    return Placed(kept, sums, frozenset(closed))
