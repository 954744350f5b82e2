"""How one configuration key is declared and read: its type, default and words for the operator.

A section is a frozen dataclass whose fields are made by `option`; `read_section` turns a TOML table
into it and collects every problem instead of stopping at the first. Plugins declare their keys
alike.
"""

import dataclasses
import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

AnySection = TypeVar("AnySection")
Parse = Callable[[Any], Any]

#: Stands for "no default: the key must be given".
REQUIRED: Any = dataclasses.MISSING


class Secret:
    """A password: never shown by `str`, `repr`, a log or a traceback; `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the password itself, for the one call that needs it."""
        return self._text

    def __str__(self) -> str:
        return "********"

    __repr__ = __str__


def option(default: Any = REQUIRED, help: str = "", parse: Parse | None = None, **more: Any) -> Any:
    """Declare a configuration key as a dataclass field.

    Parameters
    ----------
    default : optional
        The value when the key is left out, as written in TOML (it is parsed as well); without it
        the key is required.
    help : `str`
        One line for the sample configuration.
    parse : callable, optional
        Turns the TOML value into the setting, or raises `ValueError` saying what is wanted.
    example : optional
        What the sample configuration shows for a key without a default.
    """
    return dataclasses.field(
        metadata={
            "default": default,
            "help": help,
            "parse": parse or text,
            "example": more.get("example"),
        }
    )


def declared(section: type) -> list[dataclasses.Field[Any]]:
    """Return the fields of a section that are configuration keys."""
    return [field for field in dataclasses.fields(section) if "parse" in field.metadata]


def nearest(word: str, known: list[str]) -> str:
    """Suggest the nearest known word, as the end of a sentence."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(sorted(known))}"


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
        with a text that begins with a key, where two keys do not go together.
    table : mapping
        What TOML gave.
    where : `str`
        File and section, the beginning of every problem.
    problems : `list` [`str`]
        Is extended with whatever is wrong.
    **given
        Fields that are not keys of this table.

    Returns
    -------
    settings : `section` or `None`
        `None` if there was a problem.
    """
    fields = {field.name: field for field in declared(section)}
    before = len(problems)
    if not isinstance(table, Mapping):
        problems.append(f"{where}: must be a table")
        return None
    for name in table.keys() - fields.keys() - given.keys():
        problems.append(f"{where} {name}: unknown key{nearest(name, list(fields))}")
    values = dict(given)
    for name, field in fields.items():
        if name in given:
            continue
        value = table.get(name, field.metadata["default"])
        if value is REQUIRED:
            problems.append(f"{where} {name}: missing; {field.metadata['help']}")
            continue
        try:
            values[name] = value if value is None else field.metadata["parse"](value)
        except ValueError as error:
            problems.append(f"{where} {name}: {error}")
    if len(problems) > before:
        return None
    try:
        return section(**values)
    except ValueError as error:  # of two keys that do not go together
        problems.append(f"{where} {error}")
        return None


def defaults(section: type[AnySection], **values: Any) -> AnySection:
    """Make a section from its defaults and the given values (as in TOML).

    Raises
    ------
    ValueError
        If a value does not fit or a required key is left out.
    """
    given = {f.name: values.pop(f.name) for f in _undeclared(section) if f.name in values}
    problems: list[str] = []
    made = read_section(section, values, section.__name__, problems, **given)
    if made is None:
        raise ValueError("; ".join(problems))
    return made


def _undeclared(section: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(section) if "parse" not in field.metadata]


def without_password(url: str) -> str:
    """Return a database URL without its password, for messages.

    A password may hold any character, also those that end one in a well-formed URL: all is left
    out up to the last ``@``.
    """
    url = re.sub(r"(password=)[^&\s]*", r"\1***", url)
    return re.sub(r"(//[^:/@?]*):.*@", r"\1@", url, flags=re.DOTALL)


# ---- what a value may be -------------------------------------------------------------------------

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)?\s*")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kKMGTP]?)(i?)B?\s*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def text(value: Any) -> str:
    """Accept a text."""
    if not isinstance(value, str):
        raise ValueError(f"a text is wanted, not {value!r}")
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
        raise ValueError(f"true or false is wanted, not {value!r}")
    return value


def number(minimum: int, maximum: int | None = None) -> Parse:
    """Accept a whole number from ``minimum`` to ``maximum``."""

    def parse(value: Any) -> int:
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= minimum
        if not fits or (maximum is not None and value > maximum):
            upto = "" if maximum is None else f" to {maximum}"
            raise ValueError(f"a whole number from {minimum}{upto} is wanted, not {value!r}")
        return value

    return parse


def fraction(value: Any) -> float:
    """Accept a share from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"a number from 0 to 1 is wanted, not {value!r}")
    return float(value)


def duration(value: Any) -> float:
    """Accept seconds, or a text such as "90s", "10 min", "2h", "30d"."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f'seconds, or a text such as "90s", "2h", "30d", not {value!r}')
    return float(found[1]) * _SECONDS[found[2]]


def byte_count(value: Any) -> int:
    """Accept bytes, or a text such as "64 MiB" (1024) or "64 MB" (1000)."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE_TEXT.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError(f'bytes, or a text such as "64 MiB" or "2 GB", not {value!r}')
    power = " KMGTP".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def size_text(number: float) -> str:
    """Write a number of bytes for people, in a unit that shows it; `byte_count` reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def absolute_directory(value: Any) -> str:
    """Accept an absolute path; ``..`` and doubled slashes are refused, a final slash dropped."""
    path = text(value)
    if not path.startswith("/"):
        raise ValueError(f"an absolute path is wanted, not {path!r}")
    tidy = os.path.normpath(path)
    if ".." in path.split("/") or tidy == "/":
        raise ValueError(f"a directory below / without '..' is wanted, not {path!r}")
    return tidy


def file(value: Any) -> str:
    """Accept the absolute path of a file."""
    return absolute_directory(value)


def strings(value: Any) -> tuple[str, ...]:
    """Accept a list of texts."""
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"a list of texts is wanted, not {value!r}")
    return tuple(value)


def numbers(value: Any) -> tuple[int, ...]:
    """Accept a list of whole numbers."""
    if not isinstance(value, list | tuple) or not all(
        isinstance(v, int) and not isinstance(v, bool) for v in value
    ):
        raise ValueError(f"a list of whole numbers is wanted, not {value!r}")
    return tuple(value)


def patterns(value: Any) -> tuple[re.Pattern[str], ...]:
    """Accept a list of regular expressions."""
    compiled = []
    for expression in strings(value):
        try:
            compiled.append(re.compile(expression))
        except re.error as error:
            raise ValueError(f"{expression!r} is no regular expression: {error}") from None
    return tuple(compiled)


def choice(*words: str) -> Parse:
    """Accept one of the given words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError(f"one of {', '.join(words)} is wanted, not {value!r}")
        return str(value)

    return parse


def choices(*words: str) -> Parse:
    """Accept a list of some of the given words."""

    def parse(value: Any) -> tuple[str, ...]:
        wrong = [word for word in strings(value) if word not in words]
        if wrong:
            raise ValueError(f"some of {', '.join(words)} are wanted, not {wrong[0]!r}")
        return tuple(value)

    return parse


def mode(value: Any) -> int | None:
    """Accept permission bits as octal text, such as "0444"; "" leaves them as they are."""
    if value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3,4}", value):
        raise ValueError(f'an octal text such as "0444" is wanted, not {value!r}')
    return int(value, 8)


def file_mode(value: Any) -> int | None:
    """Accept permission bits of files, as `mode` does: no set-id bit, no sticky bit."""
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
        raise ValueError(f"a text is wanted, not {_TYPES.get(type(value), 'this')}")
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


#: What TOML has beside texts, for messages that must not quote a value.
_TYPES = {
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def subtable(value: Any) -> Mapping[str, Any]:
    """Accept a table whose keys are somebody else's to judge."""
    if not isinstance(value, Mapping):
        raise ValueError(f"a table is wanted, not {value!r}")
    return dict(value)


def command(value: Any) -> str:
    """Accept a command line, split into arguments as a shell splits words, but run without one."""
    try:
        if not shlex.split(text(value)):
            raise ValueError("a command is wanted")
    except ValueError as error:
        # Not quoted: a password may stand in it.
        raise ValueError(f"is no command line: {error}") from None
    return text(value)
