"""Names made from a file's own names: templates with the fields of a stored file.

A template is a format string of Python with ``{relpath}``, ``{filename}``, ``{stem}``,
``{suffix}``, ``{path}`` (absolute), ``{added_on:%Y-%m-%d}``, ``{target}`` and the named groups of a
regular expression that is searched in the relative path.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dbbbatch.config import fields
from dbbbatch.targets.plugin import Misconfigured, StoredFile

#: The fields of every file, with examples.
FIELDS: Mapping[str, Any] = {
    "relpath": "",
    "filename": "",
    "stem": "",
    "suffix": "",
    "path": "",
    "added_on": datetime(2000, 1, 1),
    "target": "",
}


class NoName(Exception):
    """The pattern does not match the path of a file, so the file has no name."""


def template(value: Any) -> str:
    """Accept a template (the parser of a configuration key)."""
    text = fields.text(value)
    if wrong := [name for name in template_fields(text) if not name.isidentifier()]:
        raise ValueError(f"{{{wrong[0]}}} is no name of a field")
    return text


def pattern(value: Any) -> re.Pattern[str] | None:
    """Accept a regular expression, or "" for none (the parser of a configuration key)."""
    return fields.patterns([value])[0] if value else None


def template_fields(text: str) -> list[str]:
    """Return the names in braces of a template.

    Raises
    ------
    ValueError
        It is no template.
    """
    try:
        return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is no template: {error}") from None


class Namer:
    """Fills templates with the fields of files.

    Parameters
    ----------
    pattern : `re.Pattern`, optional
        Searched in the relative path; its named groups are fields.
    target : `str`
        Name of the target.
    templates : mapping of `str` to `str`
        Templates by their configuration keys.

    Raises
    ------
    Misconfigured
        A template has an unknown field, or a format that does not fit.
    """

    def __init__(
        self, pattern: re.Pattern[str] | None, target: str, templates: Mapping[str, str]
    ) -> None:
        self._pattern = pattern
        self._target = target
        self._templates = templates
        examples = {**dict.fromkeys(pattern.groupindex if pattern else (), ""), **FIELDS}
        for key, text in templates.items():
            for field in template_fields(text):
                if field not in examples:
                    raise Misconfigured(
                        f"{key}: {{{field}}} has no value{fields.nearest(field, [*examples])}"
                    )
            try:
                text.format(**examples)
            except (ValueError, LookupError) as error:
                raise Misconfigured(f"{key}: {text!r}: {error}") from None

    def names(self, file: StoredFile) -> dict[str, str]:
        """Return what the templates give for a file, by their keys.

        Raises
        ------
        NoName
            The pattern does not match.
        """
        values: dict[str, Any] = {}
        if self._pattern is not None:
            match = self._pattern.search(os.path.join(file.relpath, file.filename))
            if match is None:
                raise NoName(f"the pattern {self._pattern.pattern!r} does not match its path")
            values = match.groupdict("")
        stem, suffix = os.path.splitext(file.filename)
        values |= {
            "relpath": file.relpath,
            "filename": file.filename,
            "stem": stem,
            "suffix": suffix,
            "path": file.path,
            "added_on": file.added_on or datetime.min,
            "target": self._target,
        }
        return {key: text.format(**values) for key, text in self._templates.items()}
