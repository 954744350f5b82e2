"""What happened to files at the endpoints: each is asked by its `dbb confirm`, and answers so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from dbbbatch.areas.endpoint import confirm
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Handoff
from dbbbatch.database import connect
from dbbbatch.database.models.file import File, Name
from dbbbatch.errors import TryLater
from dbbbatch.files import names
from dbbbatch.report.history import Event, History, histories
from dbbbatch.report.whereabouts import Directories, FileVersion, Ingest

#: Seconds for an answer, and the most bytes of it.
_PATIENCE, _MOST = 60.0, 64 << 20

Shape = TypeVar("Shape", FileVersion, Ingest, Event)


def ask_history(section: Handoff, places: Sequence[Name]) -> list[History]:
    """Ask an endpoint what it knows of files, in one connection.

    Parameters
    ----------
    section : `Handoff`
        Its endpoint has `confirm`.
    places : sequence
        Relpath and filename of each.

    Returns
    -------
    found : `list` [ `History` ]
        Of those that it knows.

    Raises
    ------
    TryLater
        There is no answer, or none that makes sense.
    """
    header = {"targets": [], "history": [*places]}
    answers = confirm.converse(section, header, (), wait=_PATIENCE, most=_MOST)
    if not answers or answers[-1] != f"end {len(places)}" or len(answers) != len(places) + 1:
        raise TryLater(
            f"{section.label}: the endpoint tells no histories; it may have an older dbbbatch"
        )
    try:
        known = [json.loads(text) for text in answers[:-1]]
        paths = {names.join(*place) for place in places}
        return [there for one in known if one and (there := _history(one)).path in paths]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TryLater(f"{section.label}: the endpoint's answer makes no sense: {error}") from None


def answer_history(
    settings: Settings, nonce: str, places: Sequence[Name], storages: Collection[str] | None
) -> Iterator[str]:
    """Answer what is known of files; with storage areas, of those that one of these has."""
    known = set(places)
    if storages is not None:
        known = {
            place
            for storage in sorted(storages)
            for place in connect.read(File.known, storage, places)
        }
    for place in places:
        found = histories([place], Directories(settings)) if place in known else []
        told = next((one for one in found if one.versions or one.targets), None)
        text = json.dumps(dataclasses.asdict(told), default=_iso_of_time) if told else "null"
        yield f"{nonce} {text}"
    yield f"{nonce} end {len(places)}"


def _iso_of_time(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no text")


def _history(plain: Mapping[str, Any]) -> History:
    return History(
        path=str(plain["path"]),
        versions=[_made(FileVersion, one) for one in plain["versions"]],
        targets={str(name): _made(Ingest, one) for name, one in plain["targets"].items()},
        events=[_made(Event, one) for one in plain["events"]],
    )


def _made(shape: type[Shape], plain: Mapping[str, Any]) -> Shape:
    """Make what another version may have described with more."""
    values = {field.name: plain[field.name] for field in dataclasses.fields(shape)}
    for name in ("at", "since", "next_try_at"):
        if values.get(name) is not None:
            values[name] = datetime.fromisoformat(values[name])
    return shape(**values)
