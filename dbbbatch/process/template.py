"""Make argument lists of the commands of the configuration, without running or reading anything.

A command is split into arguments once, as it is in the configuration; then each placeholder fills
an argument, or a part of one, with exact bytes. So no file name is ever split or quoted.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Most bytes of the arguments of one command: every Linux allows as many, also for one argument.
MOST_ARGUMENTS = 128 * 1024

#: Placeholders for what a transfer command copies; it uses exactly one of them.
SOURCES = ("file", "batch", "files_from")

#: Placeholders for where it copies to; it uses at least one of them.
DESTINATIONS = ("dest", "dest_root")

_TOKEN = re.compile(r"\$\{(?P<variable>\w+)\}|\{\{|\}\}|\{(?P<name>\w+)\}|(?P<stray>[{}])")

#: The placeholder that becomes as many arguments as there are sources.
_MANY = "batch"

#: A part of an argument: text, and the name of the placeholder that follows it, or ''.
_Part = tuple[str, str]


@dataclass(frozen=True)
class Command:
    """A command of the configuration.

    Attributes
    ----------
    arguments : `tuple` [ `tuple` [ `tuple` [ `str`, `str` ] ] ]
        The parts of each argument: text, and the name of the placeholder that follows it, or ''.
    """

    arguments: tuple[tuple[_Part, ...], ...]

    @property
    def placeholders(self) -> frozenset[str]:
        """The names in braces that the command uses."""
        return frozenset(name for argument in self.arguments for _, name in argument if name)

    @property
    def source(self) -> str:
        """The one of `SOURCES` that a transfer command uses."""
        return next(name for name in SOURCES if name in self.placeholders)

    def argv(self, values: Mapping[str, bytes | Sequence[bytes]]) -> list[bytes]:
        """Return the arguments with the placeholders filled.

        Parameters
        ----------
        values : `~collections.abc.Mapping`
            By name; that of ``batch`` is a list of arguments.

        Raises
        ------
        KeyError
            A placeholder has no value.
        """
        filled: list[bytes] = []
        for argument in self.arguments:
            if argument == (("", _MANY),):
                sources = values[_MANY]
                if isinstance(sources, bytes):
                    raise TypeError(f"{_MANY} is a list of arguments")
                filled.extend(sources)
            else:
                filled.append(b"".join(_fill(part, values) for part in argument))
        return filled

    def shown(self) -> str:
        """Return the command for a message."""
        return shlex.join(
            "".join(text + (name and f"{{{name}}}") for text, name in argument)
            for argument in self.arguments
        )


def parse_command(text: str) -> Command:
    """Return a command of the configuration; raise `ValueError` with the reason if it is none."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"is no command line: {error}") from None
    if not words:
        raise ValueError("a command is expected")
    command = Command(tuple(tuple(_parts(word)) for word in words))
    for argument in command.arguments:
        if argument != (("", _MANY),) and any(name == _MANY for _, name in argument):
            raise ValueError("{batch} stands for several arguments, so it must be one by itself")
    return command


def command_problems(commands: Mapping[str, str | None], known: Collection[str]) -> list[str]:
    """Return the problems of an endpoint's commands, each beginning with the key.

    Parameters
    ----------
    commands : `~collections.abc.Mapping` [ `str`, `str` or `None` ]
        "remote", "transfer" and "confirm", as configured.
    known : `~collections.abc.Collection` [ `str` ]
        Placeholders that the endpoint's own keys fill.
    """
    found = []
    for name, own in (
        ("remote", {"command"}),
        ("transfer", {*SOURCES, *DESTINATIONS, "source_root"}),
        ("confirm", set[str]()),
    ):
        text = commands.get(name)
        if not text:
            continue
        try:
            command = parse_command(text)
        except ValueError as error:
            found.append(f"{name}: {error}")
            continue
        found += [f"{name}: {what}" for what in _without_value(command, own.union(known))]
        if name == "remote" and "command" not in command.placeholders:
            found.append("remote: {command} is missing: what is run at the far end")
        if name == "transfer":
            found += [f"transfer: {what}" for what in _transfer_problems(command)]
    return found


def groups(names: Sequence[bytes], room: int) -> Iterator[Sequence[bytes]]:
    """Yield arguments in groups, each of one argument or of at most `room` bytes."""
    begin = size = 0
    for number, name in enumerate(names):
        if number > begin and size + len(name) + 1 > room:
            yield names[begin:number]
            begin, size = number, 0
        size += len(name) + 1
    if begin < len(names):
        yield names[begin:]


def _parts(word: str) -> Iterator[_Part]:
    end = 0
    literal = ""
    for found in _TOKEN.finditer(word):
        literal += word[end : found.start()]
        end = found.end()
        if found["stray"]:
            raise ValueError(
                f"a single {found['stray']!r} in {word!r}: a literal brace is written twice"
            )
        if found["variable"]:
            raise ValueError(
                f"${{{found['variable']}}} would be seen by everybody on this host (ps) as an "
                "argument of the command; leave it out: the command has "
                f"{found['variable']} in its environment, where it, or a script around it, can "
                "take it from"
            )
        if found["name"]:
            yield literal, found["name"]
            literal = ""
        else:
            literal += found[0][0]
    literal += word[end:]
    if literal or not word:
        yield literal, ""


def _fill(part: _Part, values: Mapping[str, bytes | Sequence[bytes]]) -> bytes:
    text, name = part
    value = values[name] if name else b""
    if not isinstance(value, bytes):
        raise KeyError(name)
    return os.fsencode(text) + value


def _without_value(command: Command, known: Collection[str]) -> Iterator[str]:
    import difflib

    for name in sorted(command.placeholders - set(known)):
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {{{near[0]}}}?" if near else "give it as a key of the endpoint"
        yield f"the placeholder {{{name}}} has no value; {hint}"


def _transfer_problems(command: Command) -> Iterator[str]:
    used = [name for name in SOURCES if name in command.placeholders]
    wanted = ", ".join(f"{{{name}}}" for name in SOURCES)
    if len(used) != 1:
        yield f"exactly one of {wanted} says what is copied, not {len(used)} of them"
    if not command.placeholders.intersection(DESTINATIONS):
        yield "{dest} or {dest_root} must say where to"
