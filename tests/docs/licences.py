"""The licences of what dbbbatch needs, as the installed packages state them."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections import defaultdict

from tests.support.scripts import TOP

#: What packages say without an expression of the SPDX.
_MEANT = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}

#: Those whose metadata name none: what is in the package.
_NOT_SAID = {"peewee": "MIT"}


def needed() -> dict[str, list[str]]:
    """Return the direct dependencies, and what needs each: "always", or an extra."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    by = {"always": project["dependencies"], **project["optional-dependencies"]}
    found = defaultdict(list)
    for extra, requirements in by.items():
        for requirement in requirements:
            found[re.match(r"[\w.-]+", requirement)[0]].append(extra)  # type: ignore[index]
    return dict(sorted(found.items()))


def licence(name: str) -> str | None:
    """Return the licence that an installed package states; `None` if it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    classifiers = metadata.get_all("Classifier", [])
    said = [one.split(" :: ")[2] for one in classifiers if re.match("License( :: .*){2}", one)]
    stated = [metadata.get("License-Expression"), *said, metadata.get("License")]
    first = next(filter(None, stated), "") or _NOT_SAID.get(name, "")
    return _MEANT.get(first, first)


def rows() -> list[str]:
    """Return the table of docs/licences.md, row by row, of what is installed here."""
    return [
        f"| {name} | {licence(name)} | {', '.join(by)} |"
        for name, by in needed().items()
        if licence(name) is not None
    ]


if __name__ == "__main__":
    print("\n".join(rows()))
