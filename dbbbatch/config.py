"""The configuration: one TOML file becomes frozen, typed settings, or a list of all problems.

A missing section is a component that this file does not run. A script needs `[site]`, `[database]`
and its own section: what is wrong elsewhere, or a plugin that cannot be imported, does not stop it.
`load` only reads the file; whether the world agrees (directories, commands, database) is asked by
``dbb config check``, which says all that is wrong.
"""

import difflib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from dbbbatch import areas, environment, keys
from dbbbatch.areas import Area
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.files import trust
from dbbbatch.files.state import as_user
from dbbbatch.keys import key

#: Where the file is looked for when neither -c nor $DBB_CONFIG names one.
SEARCH = (Path("dbb.toml"), Path("/etc/dbb/dbb.toml"))

#: The tables that every script needs.
_COMMON = ("site", "database")

ALGORITHMS = ("blake2b", "sha256", "sha512", "sha1", "md5")
ALL_ALGORITHMS = (*ALGORITHMS, "adler32")

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/-]*")


def _safe_directory(value: Any) -> str:
    path = keys.directory(value)
    if not _SAFE_PATH.fullmatch(path):
        raise ValueError(
            f"only letters, digits and . _ / - may stand in a path at the far end, not {path!r}"
        )
    return path


def _day(value: Any) -> str:
    day = keys.text(value)
    if day:
        try:
            # strptime alone takes 2026111 too.
            datetime.strptime(day if len(day) == 8 else "", "%Y%m%d")
        except ValueError:
            raise ValueError(f"a day as YYYYMMDD is wanted, not {day!r}") from None
    return day


def _inner_path(value: Any) -> str:
    path = keys.text(value)
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"a path relative to storage is wanted, not {path!r}")
    # One name for one file: "./raw" and "raw" are the same.
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _remote(value: Any) -> str:
    return keys.command(value) if value else ""


def _url(value: Any) -> str:
    url = keys.unquoted(value)
    if url and not re.match(r"(sqlite:////|postgres(ql)?://)", url):
        # A password may stand in it anywhere unless it is like a URL.
        given = f", not {keys.without_password(url)!r}" if "://" in url else ""
        raise ValueError(
            "sqlite:////absolute/file or postgresql://user@host/name is wanted (a relative path "
            f"depends on where cron starts){given}"
        )
    if not sound_password(url):
        # Else the database's driver would take a part of it for a host, and say so.
        raise ValueError(
            "its password holds a character that ends it in a URL: write / as %2F, @ as %40, % as "
            "%25 and a space as %20; or use password_file"
        )
    return url


def sound_password(url: str) -> bool:
    """Tell whether a driver reads the password of a database URL, if there is one, as a whole."""
    found = re.match(r"\w+://[^:/@?]*:(.*)@", url, re.DOTALL)
    # A port, and an @ in what follows the question mark.
    if found is None or re.match(r"\d{1,5}/[^?@]*\?", found[1]):
        return True
    return not re.search(r"[/@\s]|%(?![0-9A-Fa-f]{2})", found[1])


def _password_file(value: Any) -> str:
    # It may be the password itself, by mistake.
    if not keys.unquoted(value).startswith("/"):
        raise ValueError("the absolute path of a file is wanted")
    return keys.file(value)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Who we are, and where this host keeps what the scripts must remember."""

    name: str = key(
        help="name of this site, in every row of the tables", parse=keys.filled, example="summit"
    )
    state: str = key(
        help="local directory for locks, the default database and what was already said",
        parse=keys.directory,
        example="/var/lib/dbb",
    )
    keep_runs: float = key("90d", "how long the rows of passes are kept in `run`", keys.duration)
    hang_after: float = key(
        "1d",
        "how long a pass may be at work before those that find its lock say that it may hang; "
        "0: never",
        keys.duration,
    )


def is_sqlite(url: str) -> bool:
    """Tell whether a database URL names an SQLite file."""
    return url.startswith("sqlite:")


def sqlite_path(url: str) -> str:
    """Give the file of an SQLite URL."""
    return urllib.parse.unquote(url.removeprefix("sqlite:///"))


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where the tables are."""

    url: str = key(
        "",
        "sqlite:////absolute/file or postgresql://user@host/name; empty: dbb.sqlite in `state`",
        _url,
    )
    password_file: str | None = key(
        None,
        "file with the password alone (or use PGPASSFILE)",
        _password_file,
        example="/etc/dbb/password",
    )
    password: keys.Secret | None = key(
        None,
        'password, as "${VARIABLE}" of the environment',
        keys.secret,
        example="${DBB_PASSWORD}",
    )
    busy_timeout: float = key(
        "30s",
        "how long SQLite waits for another writer before pauses between its tries grow",
        keys.duration,
    )
    patience: float = key(
        "60s",
        "after how long a piece of work with the database is given up, tries and waits together",
        keys.duration,
    )


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """The far end of a handoff; any further key is a {placeholder} of its commands."""

    buffer: str = key(
        help="the endpoint's buffer: verified files appear here",
        parse=_safe_directory,
        example="/data/at/buffer",
    )
    staging: str = key(
        help="where files arrive first; same file system as the buffer, not below it",
        parse=_safe_directory,
        example="/data/at/staging",
    )
    remote: str = key(
        "",
        "command that runs {command} at the far end; empty: the endpoint is on this machine",
        _remote,
    )
    transfer: str = key(
        help="command that copies {file}, {batch} or {files_from} to {dest} or {dest_root}",
        parse=keys.command,
        example="scp -Bpq {batch} {user}@{host}:{dest}",
    )
    confirm: str | None = key(
        None,
        "`dbb confirm` at the far end: says which files it has stored, before holding is purged",
        keys.command,
        example="/opt/dbb/bin/dbb -c /etc/dbb/dbb.toml confirm",
    )
    placeholders: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Handoff:
    """A buffer whose files go to an endpoint site."""

    kind: ClassVar[str] = "handoff"
    name: str
    endpoint: Endpoint

    buffer: str = key(
        help="where the archiver puts new files", parse=keys.directory, example="/data/buffer"
    )
    holding: str = key(
        help="where originals wait after delivery; same file system as the buffer",
        parse=keys.directory,
        example="/data/holding",
    )
    quarantine: str = key(
        help="where files of this section go that need a person; same file system, not below "
        "buffer or holding",
        parse=keys.directory,
        example="/data/quarantine",
    )
    exclude: tuple[re.Pattern[str], ...] = key(
        [], "regular expressions searched in the relative path: such files are left", keys.patterns
    )
    settle: float = key(0, "how long a file must be unchanged before it is taken", keys.duration)
    order: str = key(
        "oldest",
        '"oldest" first, or "newest": the live night before a backlog',
        keys.choice("oldest", "newest"),
    )
    priority: tuple[re.Pattern[str], ...] = key(
        [], "patterns: files that match the first go first, and so on", keys.patterns
    )
    batch_files: int = key(2000, "most files in one transfer", keys.number(1))
    batch_bytes: int = key(
        "1 GiB", "most bytes in one transfer (a single file may be larger)", keys.size
    )
    streams: int = key(2, "transfers at a time", keys.number(1, 64))
    timeout: float = key(
        "2 min", "time limit of a transfer, beside bytes / min_rate", keys.duration
    )
    min_rate: int = key("1 MB", "slowest acceptable rate of a transfer, bytes a second", keys.size)
    success_codes: tuple[int, ...] = key(
        [0],
        "exit codes of the transfer command that are not failures (rsync: add 24)",
        keys.numbers,
    )
    checksum: str = key("blake2b", "algorithm, at both ends", keys.choice(*ALGORITHMS))
    max_attempts: int = key(8, "attempts before a file is quarantined", keys.number(1))
    retry_wait: float = key(
        "1 min", "wait before the second attempt; doubles each time", keys.duration
    )
    retry_wait_max: float = key("6h", "longest wait between two attempts", keys.duration)
    conflict_after: float = key(
        "1d",
        "how long another content of the same name may stay in the endpoint's buffer",
        keys.duration,
    )
    expiration: float = key(
        "1d",
        "age at which empty directories are removed from which files were sent",
        keys.duration,
    )
    keep_directories: tuple[re.Pattern[str], ...] = key(
        [],
        "regular expressions searched in the relative path of an empty directory: it stays",
        keys.patterns,
        example=[r"^cam\d+$"],
    )
    min_free: int = key("1 GiB", "free space to leave in the endpoint's staging area", keys.size)
    purge_after: float = key(
        "30d", "age at which held files are purged, once the endpoint confirms them", keys.duration
    )
    holding_free: int = key(
        0, "free space below which younger held files are purged too, oldest first", keys.size
    )
    confirm_targets: tuple[str, ...] = key(
        [], "the endpoint's targets that must have ingested a file before its purge", keys.strings
    )
    stale_after: float = key(
        "7d", "age at which what killed passes left in staging is removed", keys.duration
    )

    @property
    def longest_wait(self) -> float:
        """The longest time for which a file is put off (seconds)."""
        return max(self.retry_wait, self.retry_wait_max)

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Finder:
    """One location where new files are discovered, and the storage area that they go to."""

    kind: ClassVar[str] = "finder"
    name: str

    source: str = key(
        help="where new files (or rsync's logs) are",
        parse=keys.directory,
        example="/data/at/buffer",
    )
    storage: str = key(help="the storage area", parse=keys.directory, example="/data/storage")
    quarantine: str = key(
        help="where files of this section go that need a person; not below source or storage",
        parse=keys.directory,
        example="/data/storage-quarantine",
    )
    search: str = key(
        "scan",
        '"scan" the source, or read "rsync-logs" there',
        keys.choice("scan", "rsync-logs"),
    )
    standard: str = key(
        "move",
        '"move" new files to storage, or "none": they are there already',
        keys.choice("move", "none"),
    )
    alternative: str = key(
        "none",
        'a file already stored, the same: "none", "delete" or "quarantine" it',
        keys.choice("none", "delete", "quarantine"),
    )
    exclude: tuple[re.Pattern[str], ...] = key(
        [], "regular expressions searched in the relative path: such files are left", keys.patterns
    )
    settle: float = key(0, "how long a file must be unchanged before it is taken", keys.duration)
    batch_files: int = key(1000, "most files in one transaction", keys.number(1))
    batch_bytes: int = key("1 GiB", "most bytes in one transaction", keys.size)
    jobs: int = key(2, "files read and hashed at a time", keys.number(1, 64))
    checksum: str = key("blake2b", "algorithm of the `file` table", keys.choice(*ALGORITHMS))
    checksums: tuple[str, ...] = key(
        [],
        "further algorithms computed in the same reading and kept",
        keys.choices(*ALL_ALGORITHMS),
    )
    file_mode: int | None = key(
        "0444",
        'permissions of stored files; "": their own, without set-id bits and write by others',
        keys.file_mode,
    )
    dir_mode: int | None = key(
        "", 'permissions of directories made in storage, such as "0755"', keys.mode
    )
    group: str = key("", "group of stored files and directories")
    max_attempts: int = key(8, "attempts before a file is quarantined", keys.number(1))
    retry_wait: float = key(
        "1 min", "wait before the second attempt; doubles each time", keys.duration
    )
    retry_wait_max: float = key("6h", "longest wait between two attempts", keys.duration)
    expiration: float = key(
        "1d",
        "age at which empty directories leave the source of which files were stored",
        keys.duration,
    )
    keep_directories: tuple[re.Pattern[str], ...] = key(
        [],
        "regular expressions searched in the relative path of an empty directory: it stays",
        keys.patterns,
    )
    min_free: int = key("1 GiB", "free space to leave in storage", keys.size)
    past_days: int = key(1, "rsync-logs: days before today whose logs are read", keys.number(0))
    future_days: int = key(1, "rsync-logs: days after today whose logs are read", keys.number(0))
    date: str = key("", "rsync-logs: a day (YYYYMMDD) to take instead of today (UTC)", _day)
    delay: float = key("1 min", "rsync-logs: how long a log must be unchanged", keys.duration)
    prefix: str = key(
        "",
        "rsync-logs: where rsync's own root is in storage; {date} is the log's directory",
        _inner_path,
    )
    done_suffix: str = key(
        "", "rsync-logs: write an empty LOG + this when nothing of a log is left to do; empty: no"
    )
    audit_share: float = key(
        0.01, "share of the stored files that dbb-auditor reads in a pass", keys.fraction
    )
    audit_rate: int = key("100 MB", "most bytes a second that it reads; 0: no limit", keys.size)
    audit_missing: float = key(
        0.1, "share of missing files above which storage is taken for unmounted", keys.fraction
    )
    sentinel: str = key(
        ".dbb-storage",
        "file at the top of storage that proves that it is mounted; made by dbb init",
        keys.filled,
    )

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A data management system that stored files are offered to."""

    kind: ClassVar[str] = "target"
    name: str

    storage: str = key(help="the storage area", parse=keys.directory, example="/data/storage")
    plugin: str = key(help="which plugin ingests: null, command, link, …", example="null")
    include: tuple[re.Pattern[str], ...] = key(
        [], "regular expressions: only such relative paths are offered", keys.patterns
    )
    exclude: tuple[re.Pattern[str], ...] = key(
        [], "regular expressions: such relative paths are not offered", keys.patterns
    )
    passes: int = key(1, "passes of this ingester that one host may run at a time", keys.number(1))
    workers: int = key(1, "child processes of a pass", keys.number(1, 64))
    batch_files: int = key(1000, "most files offered at a time", keys.number(1))
    timeout: float = key("10 min", "time limit for one file", keys.duration)
    memory_limit: int = key(0, "most memory of a worker; 0: no limit", keys.size)
    max_attempts: int = key(5, "attempts before a failure waits for a person", keys.number(1))
    retry_wait: float = key(
        "1 min", "wait before the second attempt; doubles each time", keys.duration
    )
    retry_wait_max: float = key("6h", "longest wait between two attempts", keys.duration)
    sentinel: str = key(
        ".dbb-storage", "file at the top of storage that proves that it is mounted", keys.filled
    )
    config: Mapping[str, Any] = key({}, "the plugin's own keys", keys.table)

    @property
    def label(self) -> str:
        """Kind and name, as the operators' commands take them."""
        return f"{self.kind}.{self.name}"


#: What a pass may be about.
Section = Handoff | Finder | Target

#: The tables of the file that hold named sections.
KINDS: dict[str, type[Handoff] | type[Finder] | type[Target]] = {
    "handoff": Handoff,
    "finder": Finder,
    "target": Target,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What one configuration file says, as far as it is right.

    Attributes
    ----------
    path : `pathlib.Path`
    site : `Site`
    database : `Database`
    handoff, finder, target : mapping
        By name, the sections of which is nothing wrong, as far as that can be seen without a
        plugin.
    wrong : mapping
        By KIND.NAME, what is wrong with the other sections.
    notes : `tuple` [ `str` ]
        Files that were not used, and why.
    """

    path: Path
    site: Site
    database: Database
    handoff: Mapping[str, Handoff]
    finder: Mapping[str, Finder]
    target: Mapping[str, Target]
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sections(self, kind: str) -> Mapping[str, Section]:
        """Give the named sections of a kind ("handoff", "finder", "target") that are right."""
        return getattr(self, kind)  # type: ignore[no-any-return]

    def names(self, kind: str) -> list[str]:
        """Return the names of all sections of a kind, also of those that are wrong."""
        labels = (label.partition(".") for label in self.wrong)
        return [*self.sections(kind), *(name for of, _, name in labels if of == kind)]

    def chosen(self, kind: str, name: str | None, every: bool = False) -> list[str]:
        """Return the names of the sections that a command line asks for.

        Parameters
        ----------
        kind : `str`
            "handoff", "finder" or "target".
        name : `str` or `None`
            May be left out where there is one such section.
        every : `bool`
            Take all of them.

        Raises
        ------
        UsageError
            If there is no such section, or several and none is named.
        """
        there = self.names(kind)
        if name is not None and name in there:
            return [name]
        if name is not None:
            raise UsageError(f"{self.path}: no section [{kind}.{name}]{keys.nearest(name, there)}")
        if not there:
            raise UsageError(f"{self.path}: no section [{kind}.NAME]: this file runs no {kind}")
        if len(there) > 1 and not every:
            raise UsageError(
                f"which one? {self.path} has {', '.join(there)}; name one, or use --all"
            )
        return there

    def whole(self, kind: str, name: str) -> Section:
        """Return a section that can be run: a target's plugin is asked about its keys, too.

        Raises
        ------
        ConfigError
            With all that is wrong with it. What is wrong with others is not asked.
        """
        section = self._right(kind, name)
        if isinstance(section, Target) and (problems := self._of_plugin(section)):
            raise ConfigError(*problems)
        return section

    def select(self, kind: str, name: str | None, every: bool = False) -> list[Section]:
        """Choose the sections that a command line asks for.

        Raises
        ------
        UsageError
            As `chosen`.
        ConfigError
            As `whole`.
        """
        return [self.whole(kind, one) for one in self.chosen(kind, name, every)]

    def labelled(self, label: str) -> Section:
        """Find the section that an operator names as KIND.NAME; no plugin is asked.

        Raises
        ------
        UsageError
            If there is none.
        ConfigError
            With all that is wrong with it.
        """
        return self._right(*self.named(label))

    def named(self, label: str) -> tuple[str, str]:
        """Return the kind and name of a section that an operator names, be it right or wrong.

        Raises
        ------
        UsageError
            If there is none.
        """
        kind, _, name = label.partition(".")
        if kind not in KINDS or not name:
            labels = [f"{kind}.{name}" for kind in KINDS for name in self.names(kind)]
            raise UsageError(f"{label!r}: KIND.NAME is wanted; known: {', '.join(labels)}")
        return kind, self.chosen(kind, name)[0]

    def _right(self, kind: str, name: str) -> Section:
        if problems := self.wrong.get(f"{kind}.{name}"):
            raise ConfigError(*problems)
        return self.sections(kind)[name]

    def _of_plugin(self, target: Target) -> list[str]:
        """Return what is wrong with a target's choice of a plugin, and with where that writes."""
        from dbbbatch.targets import registry

        problems = registry.problems(target.label, target.plugin, target.config)
        if not problems:
            sections = (list(self.sections(kind).values()) for kind in KINDS)
            overlaps = areas.among_files(list(areas.trees(target)), *sections)  # type: ignore[arg-type]
            problems = [overlap.problem for overlap in overlaps]
        return [f"{self.path}: {problem}" for problem in problems]


def _open(given: str | None) -> tuple[Path, bytes, tuple[str, ...]]:
    """Read the file that is given, else $DBB_CONFIG, ./dbb.toml, /etc/dbb/dbb.toml.

    Also say which were not used, and why. One that is named is used or refused. In the places
    where one is looked for, what cannot be read, or is not meant for this user, is passed over:
    anybody may have put it there.
    """
    if named := given or os.environ.get("DBB_CONFIG"):
        try:
            path = Path(named).absolute()
            return path, trust.read(str(path)), ()
        except OSError as error:
            raise ConfigError(f"{named}: cannot be read: {error.strerror or error}") from None
        except trust.Distrusted as error:
            command = "" if error.owner is None else f": {as_user(error.owner, str(path))}"
            raise ConfigError(f"{error}{command}") from None
    notes: list[str] = []
    unread: list[str] = []
    for place in SEARCH:
        try:
            path = place.absolute()
            return path, trust.read(str(path)), tuple(notes)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unread.append(f"{place}: {error.strerror or error}")
        except trust.Distrusted as error:
            if not error.foreign:
                raise ConfigError(str(error)) from None
            notes.append(f"{place} is not used: {error}")
    raise ConfigError(
        "no configuration: give -c FILE, set DBB_CONFIG, or write ./dbb.toml or /etc/dbb/dbb.toml "
        "(`dbb config sample` prints one)",
        *notes,
        *unread,
    )


def load(given: str | Path | None = None) -> Settings:
    """Read the configuration: what is wrong in one section is no matter of others.

    Parameters
    ----------
    given : `str` or `pathlib.Path`, optional
        The file; by default $DBB_CONFIG, ./dbb.toml or /etc/dbb/dbb.toml.

    Returns
    -------
    settings : `Settings`

    Raises
    ------
    ConfigError
        If there is no file, it is not TOML, others can write it, or `[site]` or `[database]` are
        wrong: every problem, each naming file, section and key.
    """
    return _read_all(given)[0]


def examine(given: str | Path | None = None) -> tuple[Settings | None, list[str]]:
    """Read the configuration as far as it can be read, and ask the plugins of all targets, too.

    Parameters
    ----------
    given : `str` or `pathlib.Path`, optional
        The file; by default $DBB_CONFIG, ./dbb.toml or /etc/dbb/dbb.toml.

    Returns
    -------
    settings : `Settings` or `None`
        Without the sections that have problems of their own; `None` if not even `[site]` and
        `[database]` are whole.
    problems : `list` [`str`]
        Every problem of the file, each naming file, section and key.

    Raises
    ------
    ConfigError
        If there is no file, it is not TOML, or others can write it.
    """
    try:
        settings, problems = _read_all(given)
    except _Common as error:
        return None, list(error.problems)
    wrong = dict(settings.wrong)
    for name in settings.target:
        try:
            settings.whole("target", name)
        except ConfigError as error:
            wrong[f"target.{name}"] = error.problems
            problems += error.problems
    target = {
        name: section for name, section in settings.target.items() if section.label not in wrong
    }
    return replace(settings, target=target, wrong=wrong), problems


class _Common(ConfigError):
    """What is wrong concerns every script."""


def _read_all(given: str | Path | None) -> tuple[Settings, list[str]]:
    """Read the configuration; also return all problems that are seen without a plugin."""
    path, content, notes = _open(str(given) if given else None)
    import tomli

    try:
        tables = tomli.loads(content.decode("utf-8"))
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    common: list[str] = []
    others: list[str] = []
    for name in tables.keys() - {*_COMMON, *KINDS}:
        # A misspelt [database] must not have the scripts use another one.
        meant = difflib.get_close_matches(name, _COMMON, n=1, cutoff=0.6)
        known = keys.nearest(name, [*_COMMON, *KINDS])
        (common if meant else others).append(f"[{name}]: unknown section{known}")
    site = keys.read(Site, tables.get("site", {}), "[site]", common)
    given_database = tables.get("database", {})
    database = keys.read(Database, given_database, "[database]", common)
    if isinstance(given_database, Mapping):
        environment.hide(keys.variables(given_database.get("password")))
    if site is not None and database is not None and not database.url:
        database = replace(database, url=f"sqlite:///{site.state}/dbb.sqlite")
    read: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    wrong: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, table in _named(kind, tables.get(kind, {}), others).items():
            problems: list[str] = []
            section = _read_section(kind, name, table, f"[{kind}.{name}]", problems)
            if section is not None:
                read[kind][name] = section
            if problems:
                wrong[f"{kind}.{name}"] = problems
                others += problems
    by_kind = (list(read[kind].values()) for kind in KINDS)
    for overlap in areas.overlaps(list(_own(site, database)), *by_kind):
        others.append(overlap.problem)
        for label in overlap.labels:
            wrong.setdefault(label, []).append(overlap.problem)
    if common or site is None or database is None:
        raise _Common(*_of(path, [*common, *others]))
    settings = Settings(
        path=path,
        site=site,
        database=database,
        wrong={label: tuple(_of(path, problems)) for label, problems in wrong.items()},
        notes=notes,
        **{
            kind: {name: one for name, one in named.items() if one.label not in wrong}
            for kind, named in read.items()
        },
    )
    return settings, _of(path, others)


def _of(path: Path, problems: Iterable[str]) -> list[str]:
    return [f"{path}: {problem}" for problem in problems]


def _named(kind: str, tables: Any, problems: list[str]) -> Mapping[str, Any]:
    """Give the named sections of a kind; what has no name is said once."""
    known = {field.name for field in keys.declared(KINDS[kind])} | {"endpoint"}
    found = tables if isinstance(tables, Mapping) else {}
    named = {
        name: content
        for name, content in found.items()
        if isinstance(content, Mapping) and name not in known
    }
    if len(named) < len(found) or tables is not found:
        problems.append(f"[{kind}]: sections are named, as in [{kind}.latiss]")
    return named


def _own(site: Site | None, database: Database | None) -> Iterator[Area]:
    """Give what the scripts keep for themselves."""
    if site is not None:
        yield Area("[site] state", site.state)
    if database is not None and is_sqlite(database.url):
        file = os.path.normpath("/" + sqlite_path(database.url).lstrip("/"))
        if site is None or not Area("", file).is_in(Area("", site.state)):
            yield Area("[database] url", file)


def _read_section(
    kind: str, name: str, content: Mapping[str, Any], where: str, problems: list[str]
) -> Section | None:
    if not _NAME.fullmatch(name):
        problems.append(f"{where}: a name holds letters, digits, _ and - only")
        return None
    before = len(problems)
    given: dict[str, Any] = {"name": name}
    if kind == "handoff":
        content = dict(content)
        given["endpoint"] = _read_endpoint(
            content.pop("endpoint", {}), where[:-1] + ".endpoint]", problems
        )
    section = keys.read(KINDS[kind], content, where, problems, **given)
    if section is None or len(problems) > before:
        return None
    problems += _RELATIONS[kind](section)
    return section


def _read_endpoint(content: Any, where: str, problems: list[str]) -> Endpoint | None:
    if not isinstance(content, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    known = {f.name for f in keys.declared(Endpoint)}
    placeholders = {}
    for name, value in content.items():
        if name not in known and not isinstance(value, str | int | float):
            problems.append(f"{where} {name}: a placeholder's value is a text or a number")
        elif isinstance(value, str | int | float):
            placeholders[name] = str(value)
    return keys.read(
        Endpoint,
        {name: value for name, value in content.items() if name in known},
        where,
        problems,
        placeholders=placeholders,
    )


# ---- what must hold between two keys ------------------------------------------------------------


def _handoff_relations(handoff: Handoff) -> list[str]:
    from dbbbatch.remote import template

    where, endpoint = f"[{handoff.label}.endpoint]", handoff.endpoint
    problems = [f"{where} {problem}" for problem in template.problems(endpoint)]
    staging, buffer = Area(f"{where} staging", endpoint.staging), Area("buffer", endpoint.buffer)
    if staging.is_in(buffer) or buffer.is_in(staging):
        problems.append(f"{staging} and {buffer}: neither may lie in the other")
    return problems


def _finder_relations(finder: Finder) -> list[str]:
    where = f"[{finder.label}]"
    problems = []
    if finder.search == "rsync-logs" and finder.standard == "move":
        problems.append(
            f'{where} standard: "none" goes with search = "rsync-logs": the files are stored'
        )
    if finder.search == "rsync-logs" and finder.alternative != "none":
        problems.append(
            f'{where} alternative: "none" goes with search = "rsync-logs": there is one copy'
        )
    if finder.search == "scan" and finder.standard == "none":
        problems.append(f'{where} standard: "move" goes with search = "scan"')
    return problems


def _target_relations(target: Target) -> list[str]:
    if target.timeout == 0:
        return [
            f"[{target.label}] timeout: must be longer than 0; without it one file can hold up all"
        ]
    return []


_RELATIONS: dict[str, Callable[[Any], list[str]]] = {
    "handoff": _handoff_relations,
    "finder": _finder_relations,
    "target": _target_relations,
}
