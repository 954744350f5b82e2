"""A first configuration for a site, and the lines for its crontab."""

from __future__ import annotations

import getpass
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from dbbbatch.config import sample, sections, toml
from dbbbatch.errors import UsageError

#: The sites that there are a first configuration for.
ROLES = {
    "handoff": "new files appear here and go to another site",
    "endpoint": "files arrive here, are stored and offered to a target",
    "light": "one host does everything, with SQLite",
}

_NEAR, _FAR, _BOTH = ("handoff", "light"), ("endpoint", "light"), ("handoff", "endpoint")


class Asked(NamedTuple):
    """What must be known of a site.

    Attributes
    ----------
    name : `str`
        Of the option.
    help : `str`
    default : `str`
        '' if it must be given, but for those in `OPTIONAL`.
    roles : `tuple` [ `str` ]
        The sites of which it is asked.
    """

    name: str
    help: str
    default: str
    roles: tuple[str, ...] = tuple(ROLES)


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return "dbb"


def host_name() -> str:
    """Return the short name of this host."""
    return socket.gethostname().partition(".")[0] or "site"


QUESTIONS = (
    Asked("site", "name of this site", host_name()),
    Asked("name", "name of the sections, as in handoff.NAME", "main"),
    Asked("state", "local directory for locks and the like", "/var/lib/dbb"),
    Asked("database", "postgresql://user@host/name; empty: SQLite in state", "", _BOTH),
    Asked("buffer", "where the archiver puts new files", "/data/buffer", _NEAR),
    Asked("holding", "where originals wait after delivery", "/data/holding", _NEAR),
    Asked("quarantine", "where files go that cannot be sent", "/data/quarantine", _NEAR),
    Asked("host", "host of the endpoint, for ssh", "", ("handoff",)),
    Asked("user", "user at the endpoint", _user(), ("handoff",)),
    Asked("far-buffer", "the endpoint's buffer", "/data/endpoint/buffer", _NEAR),
    Asked("far-staging", "where files arrive first", "/data/endpoint/staging", _NEAR),
    Asked("source", "the buffer where files arrive", "/data/endpoint/buffer", ("endpoint",)),
    Asked("storage", "the storage area", "/data/storage", _FAR),
    Asked(
        "storage-quarantine",
        "where files go that cannot be stored",
        "/data/storage-quarantine",
        _FAR,
    ),
    Asked("plugin", "plugin of the target that files are offered to", "null", _FAR),
)

#: Questions that may be left without an answer.
OPTIONAL = ("database",)


def answered(
    role: str, given: Mapping[str, str | None], ask: Callable[[Asked], str] | None
) -> dict[str, str]:
    """Return the answers to all questions of a role.

    Parameters
    ----------
    role : `str`
        One of `ROLES`.
    given : mapping
        The answers that are known; the others are `None`.
    ask : `~collections.abc.Callable` or `None`
        Asks a person; without it the defaults are taken.

    Raises
    ------
    UsageError
        One must be answered and is not, or is not asked of such a site.
    """
    problems = [
        f"--{question.name}: is not for the role {role}"
        for question in QUESTIONS
        if role not in question.roles and given.get(question.name) is not None
    ]
    answers = {}
    for question in QUESTIONS:
        if role not in question.roles or problems:
            continue
        answer = given.get(question.name)
        if answer is None:
            answer = ask(question) if ask else question.default
        if not answer and question.name not in OPTIONAL:
            problems.append(f"--{question.name}: must be given: {question.help}")
        answers[question.name] = answer
    if problems:
        raise UsageError(*problems)
    return answers


def configuration(role: str, answers: Mapping[str, str], plugin: Any) -> str:
    """Return the configuration of a site, with every key of its sections.

    Parameters
    ----------
    role : `str`
        One of `ROLES`.
    answers : mapping
        From `answered`.
    plugin : `type` or `None`
        The class of the target's plugin, if the role has a target.
    """
    name = toml.toml_key(answers["name"])
    database = {"url": answers["database"]} if answers.get("database") else {}
    lines = [
        sample.HEAD,
        *sample.section_lines(
            "site", sections.Site, "", {"name": answers["site"], "state": answers["state"]}
        ),
        *sample.section_lines("database", sections.Database, "", database),
        *sample.section_lines("alert", sections.Alert, "Whom passes tell what begins and ends."),
        *sample.section_lines("report", sections.Report, "What dbb-report shows."),
    ]
    if role in _NEAR:
        keys = {key: answers[key] for key in ("buffer", "holding", "quarantine")}
        lines += sample.section_lines(f"handoff.{name}", sections.Handoff, "", keys)
        about = "The far end. Any further key is a {placeholder} of the commands."
        lines += sample.section_lines(
            f"handoff.{name}.endpoint", sections.Endpoint, about, _endpoint(answers)
        )
    if role in _FAR:
        source = answers["source"] if role == "endpoint" else answers["far-buffer"]
        keys = {"source": source, "storage": answers["storage"]}
        keys["quarantine"] = answers["storage-quarantine"]
        lines += sample.section_lines(f"finder.{name}", sections.Finder, "", keys)
        target = toml.toml_key(answers["plugin"])
        keys = {"storage": answers["storage"], "plugin": answers["plugin"]}
        lines += sample.section_lines(f"target.{target}", sections.Target, "", keys)
        lines += sample.section_lines(f"target.{target}.config", plugin.Settings, "")
    return "\n".join(lines)


def _endpoint(answers: Mapping[str, str]) -> dict[str, str]:
    keys = {"buffer": answers["far-buffer"], "staging": answers["far-staging"]}
    return keys | {key: answers[key] for key in ("host", "user") if key in answers}


def crontab(role: str, answers: Mapping[str, str], config: str, scripts: str) -> str:
    """Return the lines for the crontab of the user that runs the scripts.

    Parameters
    ----------
    role : `str`
    answers : mapping
        As for `configuration`.
    config : `str`
        The configuration file.
    scripts : `str`
        The directory of the scripts.
    """
    name = answers["name"]
    lines = ["SHELL=/bin/sh", f"PATH={scripts}:/usr/bin:/bin", f"DBB_CONFIG={config}", ""]
    if role in _NEAR:
        lines += [f"* * * * *  dbb-handoff {name} --linger 55", f"17 * * * *  dbb-janitor {name}"]
    if role in _FAR:
        lines += [
            f"* * * * *  dbb-finder {name} --linger 55",
            f"* * * * *  dbb-ingester {answers['plugin']} --linger 55",
            f"40 16 * * *  dbb-auditor {name} --max-time 2h",
        ]
    if not answers.get("database"):
        lines += [
            "# Once a day a copy of the database, to another disk:",
            "# 20 16 * * *  dbb backup /backup/dbb-$(date +\\%F).sqlite >/dev/null",
        ]
    return "\n".join(lines) + "\n"


def next_steps(answers: Mapping[str, str], config: str, cron_lines: str) -> Iterator[str]:
    """Yield the commands that follow, so that they can be pasted."""
    here = ["buffer", "holding", "quarantine", "source", "storage", "storage-quarantine"]
    if "host" not in answers:
        here += ["far-buffer", "far-staging"]
    lacking = [path for key in here if (path := answers.get(key)) and not os.path.isdir(path)]
    if lacking:
        yield f"mkdir -p {shlex.join(lacking)}"
    yield f"dbb -c {shlex.quote(config)} init"
    yield f"dbb -c {shlex.quote(config)} check"
    # Lines that are there already are not doubled.
    lines = shlex.quote(cron_lines)
    yield f"(crontab -l | grep -vxFf {lines}; cat {lines}) | crontab -"
