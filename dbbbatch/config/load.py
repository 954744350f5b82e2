"""Read the configuration: one TOML file becomes frozen, typed settings, or a list of problems.

A missing section is a component that this file does not run. A script needs `[site]`, `[database]`
and its own section: what is wrong elsewhere, or a plugin that cannot be imported, does not stop it.
`load` only reads the file; whether the world agrees (directories, commands, database) is asked by
``dbb config check``, which says all that is wrong.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config import overlap as overlapping
from dbbbatch.config.overlap import ConfiguredPath
from dbbbatch.config.sections import (
    KINDS,
    Database,
    Endpoint,
    Finder,
    Handoff,
    Section,
    Site,
    Target,
    is_sqlite,
    sqlite_path,
)
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.files import trust
from dbbbatch.files.state import as_user
from dbbbatch.process import environment

#: Where the file is looked for when neither -c nor $DBB_CONFIG names one.
SEARCH = (Path("dbb.toml"), Path("/etc/dbb/dbb.toml"))

#: The tables that every script needs.
_COMMON = ("site", "database")


_NAME = re.compile(r"[A-Za-z0-9_-]+")


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
        """Return the named sections of a kind ("handoff", "finder", "target") that are right."""
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
            raise UsageError(
                f"{self.path}: no section [{kind}.{name}]{fields.nearest(name, there)}"
            )
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

        problems = registry.plugin_problems(target.label, target.plugin, target.config)
        if not problems:
            sections = (list(self.sections(kind).values()) for kind in KINDS)
            overlaps = overlapping.among_files(list(overlapping.trees(target)), *sections)  # type: ignore[arg-type]
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
            return path, trust.read_trusted(str(path)), ()
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
            return path, trust.read_trusted(str(path)), tuple(notes)
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
        known = fields.nearest(name, [*_COMMON, *KINDS])
        (common if meant else others).append(f"[{name}]: unknown section{known}")
    site = fields.read_section(Site, tables.get("site", {}), "[site]", common)
    given_database = tables.get("database", {})
    database = fields.read_section(Database, given_database, "[database]", common)
    if isinstance(given_database, Mapping):
        environment.hide(fields.variables(given_database.get("password")))
    if site is not None and database is not None and not database.url:
        database = replace(database, url=f"sqlite:///{site.state}/dbb.sqlite")
    read: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    wrong: dict[str, list[str]] = {}
    for kind in KINDS:
        for name, table in _named_tables(kind, tables.get(kind, {}), others).items():
            problems: list[str] = []
            section = _read_section(kind, name, table, f"[{kind}.{name}]", problems)
            if section is not None:
                read[kind][name] = section
            if problems:
                wrong[f"{kind}.{name}"] = problems
                others += problems
    by_kind = (list(read[kind].values()) for kind in KINDS)
    for overlap in overlapping.overlaps(list(_own(site, database)), *by_kind):
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


def _named_tables(kind: str, tables: Any, problems: list[str]) -> Mapping[str, Any]:
    """Return the named sections of a kind; what has no name is said once."""
    known = {field.name for field in fields.declared(KINDS[kind])} | {"endpoint"}
    found = tables if isinstance(tables, Mapping) else {}
    named = {
        name: content
        for name, content in found.items()
        if isinstance(content, Mapping) and name not in known
    }
    if len(named) < len(found) or tables is not found:
        problems.append(f"[{kind}]: sections are named, as in [{kind}.latiss]")
    return named


def _own(site: Site | None, database: Database | None) -> Iterator[ConfiguredPath]:
    """Yield what the scripts keep for themselves."""
    if site is not None:
        yield ConfiguredPath("[site] state", site.state)
    if database is not None and is_sqlite(database.url):
        file = os.path.normpath("/" + sqlite_path(database.url).lstrip("/"))
        if site is None or not ConfiguredPath("", file).is_in(ConfiguredPath("", site.state)):
            yield ConfiguredPath("[database] url", file)


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
    section = fields.read_section(KINDS[kind], content, where, problems, **given)
    if section is None or len(problems) > before:
        return None
    problems += _RELATIONS[kind](section)
    return section


def _read_endpoint(content: Any, where: str, problems: list[str]) -> Endpoint | None:
    if not isinstance(content, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    known = {f.name for f in fields.declared(Endpoint)}
    placeholders = {}
    for name, value in content.items():
        if name not in known and not isinstance(value, str | int | float):
            problems.append(f"{where} {name}: a placeholder's value is a text or a number")
        elif isinstance(value, str | int | float):
            placeholders[name] = str(value)
    return fields.read_section(
        Endpoint,
        {name: value for name, value in content.items() if name in known},
        where,
        problems,
        placeholders=placeholders,
    )


# ---- what must hold between two keys ------------------------------------------------------------


def _handoff_relations(handoff: Handoff) -> list[str]:
    from dbbbatch.process import template

    where, endpoint = f"[{handoff.label}.endpoint]", handoff.endpoint
    problems = [f"{where} {problem}" for problem in template.command_problems(endpoint)]
    staging, buffer = (
        ConfiguredPath(f"{where} staging", endpoint.staging),
        ConfiguredPath("buffer", endpoint.buffer),
    )
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
