"""The sections of the configuration: what each key is for, its type and its default."""

import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.errors import key_of_full

_ALGORITHMS = ("blake2b", "sha256", "sha512", "sha1", "md5")

#: The default of `resume_from`.
_RESUME_FROM = "1 GiB"

_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/-]*")


def _safe_directory(value: Any) -> str:
    path = fields.absolute_path(value)
    if not _SAFE_PATH.fullmatch(path):
        raise ValueError(
            f"expected only letters, digits and . _ / - in a path at the far end, not {path!r}"
        )
    return path


def _day_text(value: Any) -> str:
    day = fields.text(value)
    if day:
        try:
            # strptime alone accepts 2026111 too.
            datetime.strptime(day if len(day) == 8 else "", "%Y%m%d")
        except ValueError:
            raise ValueError(f"expected a day as YYYYMMDD, not {day!r}") from None
    return day


def _inner_path(value: Any) -> str:
    path = fields.text(value)
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"expected a path relative to storage, not {path!r}")
    # One name for one file: "./raw" and "raw" are the same.
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _optional_command(value: Any) -> str:
    return fields.command(value) if value else ""


def _url(value: Any) -> str:
    url = fields.unquoted(value)
    if url and not re.match(r"(sqlite:////|postgres(ql)?://)", url):
        # Unless it looks like a URL, a password may be anywhere in it.
        given = f", not {fields.without_password(url)!r}" if "://" in url else ""
        raise ValueError(
            "expected sqlite:////absolute/file or postgresql://user@host/name (a relative path "
            f"depends on where cron starts){given}"
        )
    if not _has_sound_password(url):
        # The database's driver would take a part of it for a host, and print that.
        raise ValueError(
            "its password holds a character that ends it in a URL: write / as %2F, @ as %40, % as "
            "%25 and a space as %20; or use password_file"
        )
    return url


def _has_sound_password(url: str) -> bool:
    """Return whether a driver reads the password of a database URL, if there is one, as a whole."""
    found = re.match(r"\w+://[^:/@?]*:(.*)@", url, re.DOTALL)
    # A port, and an @ in what follows the question mark.
    if found is None or re.match(r"\d{1,5}/[^?@]*\?", found[1]):
        return True
    return not re.search(r"[/@\s]|%(?![0-9A-Fa-f]{2})", found[1])


def _password_file(value: Any) -> str:
    # By mistake, it may be the password itself.
    if not fields.unquoted(value).startswith("/"):
        raise ValueError("expected the absolute path of a file")
    return fields.absolute_path(value)


def _directory_key(help: str, example: str) -> Any:
    return option(help=help, parse=fields.absolute_path, example=example)


def _duration(default: str | int, help: str) -> Any:
    return option(default, help, fields.duration)


def _size(default: str | int, help: str) -> Any:
    return option(default, help, fields.byte_count)


def _count(default: int, help: str, maximum: int | None = None) -> Any:
    return option(default, help, fields.number(1, maximum))


def _patterns(help: str, example: Any = None) -> Any:
    return option([], help, fields.patterns, example)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The name of this site, and where this host keeps what the scripts must remember."""

    name: str = option(
        help="name of this site, in every row of the tables",
        parse=fields.nonempty,
        example="summit",
    )
    state: str = _directory_key(
        "local directory for locks, the default database and which problems were reported",
        "/var/lib/dbb",
    )
    keep_runs: float = _duration("90d", "how long the rows of passes are kept in `run`")
    keep_events: float = _duration(
        0,
        "how long every event of an ingest is kept, then only the latest of each file and target; "
        "done by the auditor; 0: for ever",
    )
    hang_after: float = _duration(
        "1d",
        "how long a pass may run before later ones report that it may hang; 0: never",
    )


def is_sqlite(url: str) -> bool:
    """Return whether a database URL names an SQLite file."""
    return url.startswith("sqlite:")


def sqlite_path(url: str) -> str:
    """Return the file of an SQLite URL."""
    return urllib.parse.unquote(url.removeprefix("sqlite:///"))


def _lease(value: Any) -> float:
    if not 4 <= (seconds := fields.duration(value)) <= 600:
        raise ValueError("expected 4 s to 10 min")
    return seconds


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where the tables are."""

    url: str = option(
        "",
        "sqlite:////absolute/file or postgresql://user@host/name; empty: dbb.sqlite in `state`",
        _url,
    )
    password_file: str | None = option(
        None,
        "file with the password alone (or use PGPASSFILE)",
        _password_file,
        example="/etc/dbb/password",
    )
    password: fields.Secret | None = option(
        None,
        'password, as "${VARIABLE}" of the environment',
        fields.secret,
        example="${DBB_PASSWORD}",
    )
    busy_timeout: float = _duration(
        "30s", "how long SQLite waits for another writer before the pauses between its tries grow"
    )
    patience: float = _duration(
        "60s", "how long one piece of work with the database may take, with all tries and waits"
    )
    lease: float = option(
        "20s",
        "PostgreSQL: after how long without a sign of life another host takes a component over",
        _lease,
    )


def _alert_command(value: Any) -> str:
    from dbbbatch.process import template

    used = template.parse_command(fields.command(value)).placeholders
    if unknown := used - {"subject"}:
        raise ValueError(f"the placeholder {{{min(unknown)}}} has no value; {{subject}} has one")
    return fields.command(value)


def _ping_url(value: Any) -> str:
    # Whoever knows it can say that all is well: no message quotes it.
    url = fields.unquoted(value)
    plain = re.sub(r"\{(label|kind|name)\}", "", url)
    try:
        port = urllib.parse.urlsplit(plain).port
    except ValueError:
        port = 0
    if port == 0 or not re.fullmatch(r"https?://[^/?#\s{}@]+([/?][^\s{}#]*)?", plain):
        raise ValueError(
            "expected a URL, http:// or https://, without a user's name; {label}, {kind} and "
            "{name} are placeholders"
        )
    return url


def _short_time(value: Any) -> float:
    if not 0 < (seconds := fields.duration(value)) <= 60:
        raise ValueError("expected more than 0 s and at most 1 min: passes wait so long")
    return seconds


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Whom passes tell what begins and what is over, apart from stderr."""

    command: str | None = option(
        None,
        "command whose stdin gets the text; {subject} is its first line",
        _alert_command,
        example="mail -s {subject} operators@example.org",
    )
    ping: str | None = option(
        None,
        "URL that hears of each pass: URL/start, then URL or URL/fail; with {label} (or {kind} and "
        "{name}), one for each section",
        _ping_url,
        example="https://ping.example.org/KEY/{kind}-{name}",
    )
    limit: float = option("5s", "how long the command, and a ping, may take", _short_time)


def scheduler_address(value: Any) -> str:
    """Accept the address of a scheduler: by TLS, or without it on this machine; or ""."""
    address = fields.text(value)
    if address and not re.fullmatch(
        r"tls://[^/@\s]+:\d{1,5}|tcp://(127(\.\d{1,3}){3}|\[::1\]):\d{1,5}", address
    ):
        raise ValueError(
            "expected tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine, not "
            f"{address!r}: who reaches a scheduler without TLS can run programs as its user"
        )
    return address


def _tls_file(what: str, name: str) -> Any:
    help = f"file of {what} (PEM), with tls://"
    return option(None, help, fields.absolute_path, example=f"/etc/dbb/{name}.pem")


@dataclass(frozen=True, kw_only=True)
class Executor:
    """Where files are hashed, and copied across file systems: in threads, or by dask workers."""

    kind: str = option(
        "threads",
        '"threads" of the pass, or "dask": workers of dask.distributed, also on other hosts',
        fields.choice("threads", "dask"),
    )
    scheduler: str = option(
        "",
        "address of the scheduler, tls://HOST:PORT, or tcp://127.0.0.1:PORT on this machine",
        scheduler_address,
    )
    command: str | None = option(
        None,
        "command whose last line of output is the address of the scheduler, instead of `scheduler`",
        fields.command,
        example="/usr/local/bin/dbb-scheduler",
    )
    tls_ca: str | None = _tls_file("the authority's certificate", "ca")
    tls_cert: str | None = _tls_file("the certificate of this host", "cert")
    tls_key: str | None = _tls_file("its key", "key")
    least: int = _size("256 MiB", "size from which files of one batch are given to workers")
    wait: float = option(
        "30s", "how long to wait for the scheduler, and for a worker to use", fields.duration
    )
    timeout: float = option(
        "10 min",
        "how long workers may end no unit (64 files or 256 MiB) before threads do what is left",
        fields.duration,
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` where two keys contradict each other."""
        if self.kind == "dask" and bool(self.scheduler) == bool(self.command):
            raise ValueError('scheduler: with kind = "dask", set this or `command`, and not both')
        if self.scheduler.startswith("tls:") and None in (self.tls_ca, self.tls_cert, self.tls_key):
            raise ValueError("scheduler: with tls://, set tls_ca, tls_cert and tls_key")


def default_remote(placeholders: Collection[str]) -> str:
    """Return the command that reaches an endpoint that has these keys, if it names none."""
    if "host" not in placeholders:
        return ""
    user = "-l {user} " if "user" in placeholders else ""
    return (
        "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 "
        f"{user}{{host}} {{command}}"
    )


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The far end of a handoff; any further key is a {placeholder} of its commands."""

    buffer: str = option(
        help="the endpoint's buffer: verified files appear here",
        parse=_safe_directory,
        example="/data/at/buffer",
    )
    staging: str = option(
        help="where files arrive first; same file system as the buffer, not below it",
        parse=_safe_directory,
        example="/data/at/staging",
    )
    remote: str = option(
        "",
        "command that runs {command} at the far end; empty: ssh to `host`, without which the "
        "endpoint is on this machine",
        _optional_command,
    )
    transfer: str = option(
        "",
        "command that copies {file}, {batch} or {files_from} to {dest} or {dest_root}; empty: the "
        "built-in stream, through the connection of `remote`",
        _optional_command,
    )
    confirm: str | None = option(
        None,
        "`dbb confirm` at the far end: lists the files it has stored, before holding is purged",
        fields.command,
        example="/opt/dbb/bin/dbb -c /etc/dbb/dbb.toml confirm",
    )
    required: bool = option(
        True,
        "of one of several endpoints: originals stay in the buffer, and in holding, until it has "
        "them",
        fields.boolean,
    )
    wait_for: float = _duration(
        "1h",
        "how long, after another endpoint has a file, its original stays in the buffer for one "
        "that is not required",
    )
    placeholders: Mapping[str, str] = field(default_factory=dict)

    @property
    def key_of_full(self) -> str:
        """The key of the trouble that its staging area has too little room."""
        return key_of_full(f"{self.placeholders.get('host', '')}:{self.staging}")


class ConfiguredPath(NamedTuple):
    """A path of the configuration, with the section and key that name it.

    Attributes
    ----------
    where : `str`
        Section and key.
    path : `str`
    label : `str`
        KIND.NAME of the section; '' if no such section names it.
    """

    where: str
    path: str
    label: str = ""

    def __str__(self) -> str:
        """Return section, key and path, for a message."""
        return f"{self.where} ({self.path})"

    def is_in(self, other: "ConfiguredPath") -> bool:
        """Return whether this is the other one, or lies below it."""
        return self.path == other.path or self.path.startswith(other.path + "/")

    def overlaps(self, other: "ConfiguredPath") -> bool:
        """Return whether one of the two is, or lies below, the other."""
        return self.is_in(other) or other.is_in(self)


@dataclass(frozen=True, kw_only=True)
class NamedSection:
    """What all sections with a name have in common."""

    kind: ClassVar[str]
    name: str

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"

    @property
    def table(self) -> str:
        """The table of the file that has its keys."""
        return self.label

    def path(self, key: str) -> ConfiguredPath:
        """Return the directory that a key of this section names."""
        return ConfiguredPath(f"[{self.table}] {key}", getattr(self, key), self.label)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong between two keys, each with its section and key."""
        yield from ()


@dataclass(frozen=True, kw_only=True)
class WorkSection(NamedSection):
    """What all sections that passes work on have in common."""

    exclude: tuple[re.Pattern[str], ...] = _patterns(
        "regular expressions searched in the relative path: such files are left alone"
    )
    retry_wait: float = _duration("1 min", "wait before the second attempt; doubles each time")
    retry_wait_max: float = _duration("6h", "longest wait between two attempts")
    expect: float | None = option(
        "",
        'how often its passes must succeed, such as "5m", or they are overdue; "": as usual',
        fields.interval,
    )

    @property
    def longest_wait(self) -> float:
        """The longest time for which a file is put off (seconds)."""
        return max(self.retry_wait, self.retry_wait_max)


@dataclass(frozen=True, kw_only=True)
class Source(WorkSection):
    """What handoffs and finders have in common: a directory from which files are moved on."""

    settle: float = _duration(0, "how long a file must be unchanged before it is moved")
    max_attempts: int = _count(8, "attempts before a file is quarantined")
    expiration: float = _duration(
        "1d", "age at which empty directories, from which files were moved on, are removed"
    )
    keep_directories: tuple[re.Pattern[str], ...] = _patterns(
        "regular expressions searched in the relative path of an empty directory: it stays",
        [r"^cam\d+$"],
    )


@dataclass(frozen=True, kw_only=True)
class Handoff(Source):
    """A buffer whose files go to an endpoint site.

    Where the files of a buffer go to several endpoints, each of them has such a section.

    Attributes
    ----------
    endpoint : `Endpoint`
    siblings : `tuple` [ `str` ]
        The names of the sections of all endpoints of its buffer, itself among them; none where
        there is one endpoint.
    required : `tuple` [ `str` ]
        Those of the endpoints that are required.
    longest_wait_for : `float`
        The longest `wait_for` of the others.
    """

    kind: ClassVar[str] = "handoff"
    endpoint: Endpoint
    siblings: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    longest_wait_for: float = 0

    buffer: str = _directory_key("where the archiver puts new files", "/data/buffer")
    holding: str = _directory_key(
        "where originals wait after delivery; same file system as the buffer", "/data/holding"
    )
    quarantine: str = _directory_key(
        "where files go that need a person; same file system, not below buffer or holding",
        "/data/quarantine",
    )
    order: str = option(
        "oldest",
        '"oldest" first, or "newest": the live night before a backlog',
        fields.choice("oldest", "newest"),
    )
    priority: tuple[re.Pattern[str], ...] = _patterns(
        "patterns: files that match the first go first, and so on"
    )
    batch_files: int = _count(2000, "most files in one transfer")
    batch_bytes: int = _size("1 GiB", "most bytes in one transfer (a single file may be larger)")
    streams: int | None = option(
        None,
        "transfers at a time; left out: 2 of a command, and of the built-in stream as many as the "
        "line needs, at most 8",
        fields.number(1, 64),
        example=2,
    )
    bandwidth: float | None = option(
        "",
        'most that the built-in stream sends, as "200 Mbit/s" or "25 MB/s"; empty: no limit',
        fields.rate,
    )
    resume_from: int = _size(
        _RESUME_FROM,
        "size from which a file that was broken off is continued by the built-in stream, after "
        "what arrived of it was compared",
    )
    timeout: float = _duration("2 min", "time limit of a transfer, in addition to bytes / min_rate")
    min_rate: int = _size("1 MB", "slowest acceptable rate of a transfer, bytes a second")
    success_codes: tuple[int, ...] = option(
        [0],
        "exit codes of the transfer command that are not failures (rsync: add 24)",
        fields.numbers,
    )
    checksum: str = option("blake2b", "algorithm, at both ends", fields.choice(*_ALGORITHMS))
    conflict_after: float = _duration(
        "1d",
        "how long a file of the same name with other content may stay in the endpoint's buffer",
    )
    min_free: int = _size("1 GiB", "free space to leave in the endpoint's staging area")
    purge_after: float = _duration(
        "30d", "age at which held files are purged, once the endpoint confirms them"
    )
    holding_free: int = _size(
        0, "free space below which younger held files are purged too, oldest first"
    )
    confirm_targets: tuple[str, ...] = option(
        [], "the endpoint's targets that must have ingested a file before its purge", fields.strings
    )
    stale_after: float = _duration(
        "7d", "age at which leftovers of killed passes are removed from staging"
    )

    @property
    def table(self) -> str:
        """The table of the file that has its keys, and those of its siblings."""
        return ".".join(self.label.split(".")[:2])

    @property
    def endpoint_table(self) -> str:
        """The table of the file that has the keys of its endpoint."""
        _, _, name = self.name.partition(".")
        return f"{self.table}.endpoint.{name}" if name else f"{self.table}.endpoint"

    @property
    def others(self) -> tuple[str, ...]:
        """The names of its siblings without its own."""
        return tuple(name for name in self.siblings if name != self.name)

    @property
    def is_first(self) -> bool:
        """Whether it is the one of its siblings that does what is done once for all."""
        return not self.siblings or self.name == self.required[0]

    @property
    def has_stream(self) -> bool:
        """Whether the built-in stream sends its files, and no command does."""
        return not self.endpoint.transfer

    def far_path(self, key: str) -> ConfiguredPath:
        """Return the directory that a key of the endpoint names."""
        where = f"[{self.endpoint_table}] {key}"
        return ConfiguredPath(where, getattr(self.endpoint, key), self.label)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the endpoint's commands, and between its directories."""
        from dbbbatch.process import template

        commands = {key: getattr(self.endpoint, key) for key in ("remote", "transfer", "confirm")}
        for problem in template.command_problems(commands, self.endpoint.placeholders):
            yield f"[{self.endpoint_table}] {problem}"
        yield from self._problems_of_stream() if self.has_stream else self._problems_of_command()
        staging, buffer = self.far_path("staging"), self.far_path("buffer")
        if staging.overlaps(buffer):
            yield f"{staging} and {buffer}: neither may lie in the other"

    def _problems_of_command(self) -> Iterator[str]:
        if self.resume_from != fields.byte_count(_RESUME_FROM):
            yield (
                f"[{self.table}] resume_from: continues files of the built-in stream only; leave "
                f"it out, and give the command of [{self.endpoint_table}] transfer an option of "
                "its own"
            )
        if self.bandwidth is not None:
            yield (
                f"[{self.table}] bandwidth: limits the built-in stream only; leave it out, and "
                f"give the command of [{self.endpoint_table}] transfer an option of its own"
            )

    def _problems_of_stream(self) -> Iterator[str]:
        """Yield keys that only a command would use: one may be `transfer`, written wrong."""
        from dbbbatch.process import template

        if self.success_codes != (0,):
            yield (
                f"[{self.table}] success_codes: the built-in stream has no exit code; leave it "
                f"out, or set [{self.endpoint_table}] transfer"
            )
        endpoint = self.endpoint
        used = {"host", "user"}
        for text in filter(None, (endpoint.remote, endpoint.confirm)):
            with suppress(ValueError):  # reported above
                used |= template.parse_command(text).placeholders
        known = [key.name for key in fields.declared(Endpoint)]
        for name in sorted(endpoint.placeholders.keys() - used - set(known)):
            yield (
                f"[{self.endpoint_table}] {name}: no command uses it, and without `transfer` the "
                f"built-in stream sends the files{fields.nearest(name, known)}"
            )


@dataclass(frozen=True, kw_only=True)
class Finder(Source):
    """One location where new files are discovered, and the storage area that they go to."""

    kind: ClassVar[str] = "finder"
    source: str = _directory_key("where new files (or rsync's logs) are", "/data/at/buffer")
    storage: str = _directory_key("the storage area", "/data/storage")
    quarantine: str = _directory_key(
        "where files go that need a person; not below source or storage",
        "/data/storage-quarantine",
    )
    search: str = option(
        "scan",
        '"scan" the source, or read "rsync-logs" there',
        fields.choice("scan", "rsync-logs"),
    )
    standard: str = option(
        "move",
        '"move" new files to storage, or "none": they are there already',
        fields.choice("move", "none"),
    )
    alternative: str = option(
        "none",
        'what to do with a file that is already stored: "none", "delete" or "quarantine" it',
        fields.choice("none", "delete", "quarantine"),
    )
    batch_files: int = _count(1000, "most files in one transaction")
    batch_bytes: int = _size("1 GiB", "most bytes in one transaction")
    jobs: int = _count(2, "files read and hashed at a time", 64)
    checksum: str = option("blake2b", "algorithm of the `file` table", fields.choice(*_ALGORITHMS))
    checksums: tuple[str, ...] = option(
        [],
        "further algorithms computed in the same reading and kept",
        fields.choices(*_ALGORITHMS, "adler32"),
    )
    file_mode: int | None = option(
        "0444",
        'permissions of stored files; "": their own, without set-id bits and write by others',
        fields.file_mode,
    )
    dir_mode: int | None = option(
        "", 'permissions of directories made in storage, such as "0755"', fields.mode
    )
    group: str = option("", "group of stored files and directories")
    trust_writers: bool = option(
        False,
        "rename a file into storage also if another user owns it, who can then change it there; "
        "false: such a file is copied",
        fields.boolean,
    )
    min_free: int = _size("1 GiB", "free space to leave in storage")
    past_days: int = option(
        1, "rsync-logs: days before today whose logs are read", fields.number(0)
    )
    future_days: int = option(
        1, "rsync-logs: days after today whose logs are read", fields.number(0)
    )
    date: str = option("", "rsync-logs: a day (YYYYMMDD) to use instead of today (UTC)", _day_text)
    delay: float = _duration("1 min", "rsync-logs: how long a log must be unchanged")
    prefix: str = option(
        "",
        "rsync-logs: rsync's root, relative to storage; {date} is the log's directory",
        _inner_path,
    )
    done_suffix: str = option(
        "", "rsync-logs: suffix of an empty file written beside a finished log; empty: none"
    )
    audit_share: float = option(
        0.01, "share of the stored files that dbb-auditor reads in a pass", fields.fraction
    )
    audit_rate: int = _size("100 MB", "most bytes a second that dbb-auditor reads; 0: no limit")
    audit_missing: float = option(
        0.1,
        "share of missing files above which storage is assumed to be unmounted",
        fields.fraction,
    )
    sentinel: str = option(
        ".dbb-storage",
        "file at the top of storage that proves that it is mounted; made by dbb init",
        fields.nonempty,
    )

    def problems(self) -> Iterator[str]:
        """Yield which ways of moving files contradict the way of finding them."""
        by_logs = self.search == "rsync-logs"
        if by_logs and self.standard == "move":
            yield (
                f'[{self.label}] standard: set "none" with search = "rsync-logs": the files are '
                "in storage already"
            )
        if by_logs and self.alternative != "none":
            yield (
                f'[{self.label}] alternative: set "none" with search = "rsync-logs": there is '
                "only one copy"
            )
        if not by_logs and self.standard == "none":
            yield f'[{self.label}] standard: set "move" with search = "scan"'


@dataclass(frozen=True, kw_only=True)
class Target(WorkSection):
    """A data management system that stored files are offered to."""

    kind: ClassVar[str] = "target"
    storage: str = _directory_key("the storage area", "/data/storage")
    plugin: str = option(help="which plugin ingests: null, command, link, …", example="null")
    include: tuple[re.Pattern[str], ...] = _patterns(
        "regular expressions: only such relative paths are offered"
    )
    passes: int = _count(1, "passes of this ingester that one host may run at a time")
    workers: int = _count(1, "child processes of a pass", 64)
    batch_files: int = _count(1000, "most files offered at a time")
    timeout: float = _duration("10 min", "time limit for one file")
    memory_limit: int = _size(0, "most memory of a worker; 0: no limit")
    max_attempts: int = _count(5, "attempts before a failure waits for a person")
    sentinel: str = option(
        ".dbb-storage", "file at the top of storage that proves that it is mounted", fields.nonempty
    )
    config: Mapping[str, Any] = option({}, "the plugin's own keys", fields.subtable)

    def problems(self) -> Iterator[str]:
        """Yield whether a file may take forever."""
        if self.timeout == 0:
            yield (
                f"[{self.label}] timeout: must be longer than 0; without it one file can hold up "
                "all others"
            )


def _time_of_day(value: Any) -> float:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)", fields.text(value))
    if not found:
        raise ValueError(f'expected a time of the day such as "12:00", not {value!r}')
    return int(found[1]) * 3600.0 + int(found[2]) * 60.0


def _pattern(value: Any) -> re.Pattern[str] | None:
    return fields.patterns([fields.text(value)])[0] if value != "" else None


def _night_pattern(value: Any) -> re.Pattern[str] | None:
    pattern = _pattern(value)
    if pattern is not None and not pattern.groups:
        raise ValueError(f"expected a group for the date, as in '/(\\d{{8}})/', not {value!r}")
    return pattern


@dataclass(frozen=True, kw_only=True)
class Report:
    """What dbb-report shows of each night."""

    night_begins: float = option("12:00", "when a night begins, UTC", _time_of_day)
    night: re.Pattern[str] | None = option(
        r"(?<!\d)(20\d\d-?[01]\d-?[0-3]\d)(?!\d)",
        "regular expression whose first group is the date, YYYYMMDD or YYYY-MM-DD, in the relative "
        "path; where it does not match, the time at which the file was first seen decides",
        _night_pattern,
    )
    exposure: re.Pattern[str] | None = option(
        "",
        "regular expression: files in whose relative path it finds the same text are one exposure, "
        r"as '[A-Z]{2}_O_\d{8}_\d{6}' may; empty: files are counted",
        _pattern,
    )
    expected: int | None = option(
        None,
        "how many exposures, or files, a night should bring",
        fields.number(1),
        example=1000,
    )
    nights: int = _count(30, "how many nights are shown", 400)


@dataclass(frozen=True, kw_only=True)
class Receive(NamedSection):
    """What `dbb receive` lets the key of another site do here."""

    kind: ClassVar[str] = "receive"
    buffer: str = option(
        help="where its files are placed once they are verified",
        parse=_safe_directory,
        example="/data/at/buffer",
    )
    staging: str = option(
        help="where its files arrive; same file system as the buffer, and for this key alone",
        parse=_safe_directory,
        example="/data/at/staging",
    )
    transfer: str = option(
        "rsync",
        '"rsync": its files may arrive by rsync through the same key; "none": some other way',
        fields.choice("rsync", "none"),
    )
    confirm: tuple[str, ...] = option(
        [],
        "storage areas about whose files it may ask",
        lambda value: tuple(map(fields.absolute_path, fields.strings(value))),
        example=["/data/storage"],
    )
    history: bool = option(
        False,
        "whether it may also ask what happened to them here, with all messages",
        fields.boolean,
    )

    def problems(self) -> Iterator[str]:
        """Yield whether one of its directories lies in the other."""
        staging, buffer = self.path("staging"), self.path("buffer")
        if staging.overlaps(buffer):
            yield f"{staging} and {buffer}: neither may lie in the other"


#: Keys of a handoff that the table of one of several endpoints may have, too: they are about it.
OF_ENDPOINT = (
    *("batch_files", "batch_bytes", "streams", "bandwidth", "resume_from", "timeout", "min_rate"),
    *("success_codes", "conflict_after", "min_free", "confirm_targets", "stale_after"),
    *("retry_wait", "retry_wait_max", "expect"),
)


#: What a pass works on.
Section = Handoff | Finder | Target


#: The tables of the file that hold the sections that passes work on.
KINDS: dict[str, type[Handoff] | type[Finder] | type[Target]] = {
    "handoff": Handoff,
    "finder": Finder,
    "target": Target,
}

#: The tables of the file that hold named sections.
NAMED: dict[str, type[Handoff] | type[Finder] | type[Target] | type[Receive]] = {
    **KINDS,
    "receive": Receive,
}
