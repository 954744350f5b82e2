"""Declare and read one configuration key: its type, its default and its help text.

A section is a frozen dataclass whose fields are made by `option`; `read_section` turns a TOML table
into it and collects every problem instead of stopping at the first. Plugins declare their keys in
the same way.

Sizes and durations are parsed here, not by humanize or pytimeparse: those would add to the start of
each idle pass, and accept spellings (such as "1:30") that can be misread.
"""

import dataclasses
import difflib
import os
import re
import shlex
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

AnySection = TypeVar("AnySection")
Parse = Callable[[Any], Any]

#: The default of a key that must be set.
REQUIRED: Any = dataclasses.MISSING

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)?\s*")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}

#: The longest length of time; seconds. A hundred years can be added to any date.
_CENTURY = 36_525 * 86_400
_SIZE_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)B?\s*")
_RATE_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)(bit|B)/s\s*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Secret:
    """A password: never shown by `str`, `repr`, a log or a traceback; `reveal` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the password itself, for the one call that needs it."""
        return self._text

    def __repr__(self) -> str:
        """Return asterisks."""
        return "********"


def option(
    default: Any = REQUIRED, help: str = "", parse: Parse | None = None, example: Any = None
) -> Any:
    """Declare a configuration key as a dataclass field.

    Parameters
    ----------
    default : optional
        The value when the key is left out, as written in TOML (it is parsed as well); without it
        the key is required.
    help : `str`
        One line for the sample configuration.
    parse : callable, optional
        Turns the TOML value into the setting, or raises `ValueError` that names what is expected;
        the default accepts a text.
    example : optional
        What the sample configuration shows for a key without a default.
    """
    return dataclasses.field(
        metadata={"default": default, "help": help, "parse": parse or text, "example": example}
    )


def declared(section: type) -> list[dataclasses.Field[Any]]:
    """Return the fields of a section that are configuration keys; inherited ones come last."""
    if not dataclasses.is_dataclass(section):
        return []
    found = [field for field in dataclasses.fields(section) if "parse" in field.metadata]
    inherited = {
        field.name
        for base in section.__bases__
        if dataclasses.is_dataclass(base)
        for field in dataclasses.fields(base)
    }
    return sorted(found, key=lambda field: field.name in inherited)


def nearest(word: str, known: list[str]) -> str:
    """Return the end of a sentence that suggests the nearest known word."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return (
        f"; did you mean {found[0]!r}?"
        if found
        else f"; known: {', '.join(sorted(known)) or 'none'}"
    )


def read_section(
    section: type[AnySection],
    table: Mapping[str, Any],
    where: str,
    problems: list[str],
    **given: Any,
) -> AnySection | None:
    """Turn a TOML table into a section.

    Parameters
    ----------
    section : `type`
        The dataclass, with fields made by `option`. Its ``__post_init__`` may raise `ValueError`,
        with a text that begins with a key, where two keys contradict each other.
    table : mapping
        The keys and values as TOML has them.
    where : `str`
        File and section, the beginning of every problem.
    problems : `list` [`str`]
        Is extended with everything that is wrong.
    **given
        Fields that are not keys of this table.

    Returns
    -------
    settings : `section` or `None`
        `None` if there was a problem.
    """
    if not isinstance(table, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    fields = {field.name: field for field in declared(section) if field.name not in given}
    found = [
        f"{name}: unknown key{nearest(name, list(fields))}"
        for name in table
        if name not in fields and name not in given
    ]
    values = dict(given)
    for name, field in fields.items():
        value = table.get(name, field.metadata["default"])
        if value is REQUIRED:
            found.append(f"{name}: missing; {field.metadata['help']}")
            continue
        try:
            values[name] = value if value is None else field.metadata["parse"](value)
        except ValueError as error:
            found.append(f"{name}: {error}")
    try:
        if not found:
            return section(**values)
    except ValueError as error:  # of __post_init__
        found.append(str(error))
    problems += [f"{where} {problem}" for problem in found]
    return None


def defaults(section: type[AnySection], **values: Any) -> AnySection:
    """Make a section from its defaults and the given values (as in TOML).

    Raises
    ------
    ValueError
        If a value does not fit or a required key is left out.
    """
    keys = {field.name for field in declared(section)}
    table = {name: value for name, value in values.items() if name in keys}
    given = {name: value for name, value in values.items() if name not in keys}
    problems: list[str] = []
    made = read_section(section, table, section.__name__, problems, **given)
    if made is None:
        raise ValueError("; ".join(problems))
    return made


def without_password(url: str) -> str:
    """Return a database URL without its password, for messages.

    A password may hold any character, also those that end one in a well-formed URL: everything up
    to the last ``@`` is left out.
    """
    url = re.sub(r"(password=)[^&\s]*", r"\1***", url)
    return re.sub(r"(//[^:/@?]*):.*@", r"\1@", url, flags=re.DOTALL)


def text(value: Any) -> str:
    """Accept a text."""
    if not isinstance(value, str):
        raise ValueError(f"expected a text, not {value!r}")
    if "\0" in value:
        raise ValueError(f"no path or name may hold a NUL, as {value!r} does")
    return value


def nonempty(value: Any) -> str:
    """Accept a text that is not empty."""
    if not text(value).strip():
        raise ValueError("must not be empty")
    return text(value)


def boolean(value: Any) -> bool:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, not {value!r}")
    return value


def number(minimum: int, maximum: int | None = None) -> Parse:
    """Accept a whole number from ``minimum`` to ``maximum``."""
    upto = "" if maximum is None else f" to {maximum}"

    def parse(value: Any) -> int:
        if not _is(int, value) or value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"expected a whole number from {minimum}{upto}, not {value!r}")
        return int(value)

    return parse


def fraction(value: Any) -> float:
    """Accept a share from 0 to 1."""
    if not _is(int | float, value) or not 0 <= value <= 1:
        raise ValueError(f"expected a number from 0 to 1, not {value!r}")
    return float(value)


def duration(value: Any) -> float:
    """Accept seconds, or a text such as "90s", "10 min", "2h", "30d"; return seconds."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found:
        seconds = float(found[1]) * _SECONDS[found[2]]
    elif _is(int | float, value) and value >= 0:
        seconds = value
    else:
        raise ValueError(f'expected seconds, or a text such as "90s", "2h", "30d", not {value!r}')
    if seconds > _CENTURY:
        raise ValueError(f"expected at most {_CENTURY // 86400} d, not {value!r}")
    return float(seconds)


def interval(value: Any) -> float | None:
    """Accept a length of time above 0, as `duration`, or "" for none."""
    if value == "":
        return None
    if not (seconds := duration(value)):
        raise ValueError('expected a time longer than 0, or "" for none')
    return seconds


def byte_count(value: Any) -> int:
    """Accept bytes, or a text such as "64 MiB" (1024) or "64 MB" (1000); return bytes."""
    found = _SIZE_TEXT.fullmatch(value) if isinstance(value, str) else None
    size = value if _is(int, value) else -1
    if found:
        power = " KMGTP".index(found[2].upper() or " ")
        size = float(found[1]) * (1024 if found[3] else 1000) ** power
    if not 0 <= size < 2**63:
        raise ValueError(f'expected bytes, or a text such as "64 MiB" or "2 GB", not {value!r}')
    return int(size)


def rate(value: Any) -> float | None:
    """Accept a text such as "200 Mbit/s" or "25 MB/s", or "" for none; return bytes a second."""
    if value == "":
        return None
    found = _RATE_TEXT.fullmatch(value) if isinstance(value, str) else None
    number = 0.0
    if found:
        power = " KMGT".index(found[2].upper() or " ")
        number = float(found[1]) * (1024 if found[3] else 1000) ** power
    if not found or not number:
        # A number alone may be bits or bytes.
        raise ValueError(f'expected a text such as "200 Mbit/s" or "25 MB/s", not {value!r}')
    return number / 8 if found[4] == "bit" else number


def size_text(number: float) -> str:
    """Write a number of bytes for people, as `byte_count` reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def span_text(seconds: float) -> str:
    """Write a length of time for people, in its largest unit."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def absolute_path(value: Any) -> str:
    """Accept an absolute path; ``..`` is refused, doubled and final slashes are dropped."""
    path = text(value)
    if not path.startswith("/"):
        raise ValueError(f"expected an absolute path, not {path!r}")
    tidy = os.path.normpath(path)
    if ".." in path.split("/") or tidy == "/":
        raise ValueError(f"expected a path below / without '..', not {path!r}")
    return tidy


def strings(value: Any) -> tuple[str, ...]:
    """Accept a list of texts."""
    return _list(str, "texts", value)


def numbers(value: Any) -> tuple[int, ...]:
    """Accept a list of whole numbers."""
    return _list(int, "whole numbers", value)


def patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    """Accept a list of regular expressions."""
    compiled = []
    for expression in strings(value):
        try:
            with warnings.catch_warnings(action="ignore"):  # cron would mail them at each start
                compiled.append(re.compile(expression))
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{expression!r} is no regular expression: {error}") from None
    return tuple(compiled)


def choice(*words: str) -> Parse:
    """Accept one of the given words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}, not {value!r}")
        return str(value)

    return parse


def choices(*words: str) -> Parse:
    """Accept a list of some of the given words."""
    parse_one = choice(*words)
    return lambda value: tuple(map(parse_one, strings(value)))


def mode(value: Any) -> int | None:
    """Accept permission bits as octal text, such as "0444"; "" leaves them as they are."""
    if value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise ValueError(f'expected an octal text such as "0444", not {value!r}')
    return int(value, 8)


def file_mode(value: Any) -> int | None:
    """Accept permission bits of files, as `mode` does, without set-id and sticky bits."""
    bits = mode(value)
    if bits is not None and bits > 0o777:
        raise ValueError(f"stored files get no set-id or sticky bit: write {bits & 0o777:04o}")
    return bits


def secret(value: Any) -> Secret:
    """Accept a password, best written as ``${VARIABLE}`` of the environment; never quote it."""

    def look_up(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise ValueError(f"the environment variable {found[1]} is not set")
        return os.environ[found[1]]

    return Secret(_VARIABLE.sub(look_up, unquoted(value)))


def unquoted(value: Any) -> str:
    """Accept a text that may be, or hold, a secret: no error quotes it."""
    if not isinstance(value, str):
        raise ValueError("expected a text, in quotes")
    if "\0" in value:
        raise ValueError("must not hold a NUL")
    return value


def variables(value: Any) -> list[str]:
    """Return the variables of the environment that a value of the configuration names."""
    if isinstance(value, str):
        return _VARIABLE.findall(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return [name for one in value for name in variables(one)] if isinstance(value, list) else []


def subtable(value: Any) -> Mapping[str, Any]:
    """Accept a table whose keys are checked elsewhere."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, not {value!r}")
    return dict(value)


def command(value: Any) -> str:
    """Accept a command line, split into arguments as a shell splits words, but run without one."""
    try:
        if shlex.split(text(value)):
            return text(value)
    except ValueError as error:
        # Not quoted: it may hold a password.
        raise ValueError(f"is no command line: {error}") from None
    raise ValueError("is no command line: it is empty")


def _is(kind: Any, value: Any) -> bool:
    """Return whether a value is a number or text of TOML; its true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _list(kind: type, of: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not all(_is(kind, one) for one in value):
        raise ValueError(f"expected a list of {of}, not {value!r}")
    return tuple(value)
