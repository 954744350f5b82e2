"""The plots of a night: SVG for the inside of a page, in the page's own colours and letters."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dbbbatch.config import fields
from dbbbatch.report.nights import BIN, Latency, Night, Step
from dbbbatch.report.words import size_for_people

# It tells on stderr of caches and fonts, which cron would mail.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

_WIDTH, _ROW, _LEGEND = 460, 40, 34  # points

#: Colours that stand for those of the page, which differ by day and night: its variables by name.
_COLOURS = ("ink", "quiet", "line", "card", "s0", "s1", "s2", "s3", "s4", "s5")
_SERIES = _COLOURS.index("s0")

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dbb-report",
    "font.size": 11,
    "path.simplify": False,
    "text.parse_math": False,
}

#: Seconds, and what is written beside them.
_TICKS = {
    1: "1 s",
    10: "10 s",
    60: "1 min",
    600: "10 min",
    3600: "1 h",
    21600: "6 h",
    86400: "1 d",
    604800: "7 d",
}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture with its words.

    Attributes
    ----------
    svg : `markupsafe.Markup`
        With a title and a description for those who do not see it.
    """

    title: str
    caption: str
    svg: Markup


@matplotlib.rc_context(_SETTINGS)
def bytes_by_time(night: Night) -> Plot | None:
    """Plot when bytes were found and made each step; `None` if there were none."""
    steps = [step for step in night.steps if any(step.bytes_by_time) or _outside(step)]
    highest = max((max(step.bytes_by_time, default=0) for step in steps), default=0)
    if not highest:
        return None
    figure, axes = _axes_of_rows(len(steps))
    for row, step in enumerate(reversed(steps)):
        hours = [bin * BIN / 3600 for bin in range(len(step.bytes_by_time) + 1)]
        heights = [row + 0.55 * size / highest for size in step.bytes_by_time]
        axes.stairs(heights, hours, baseline=row, fill=True, color=_series(night, step))
        axes.axhline(row, color=_colour("line"), linewidth=0.8)
        total = ", ".join([size_for_people(sum(step.bytes_by_time)), *_outside(step)])
        axes.text(0, row + 0.64, step.name, color=_colour("ink"))
        axes.text(24, row + 0.64, total, color=_colour("quiet"), ha="right")
    axes.set_xlim(0, 24)
    ticks = range(0, 25, 3)
    starts = (night.begins + timedelta(hours=hour) for hour in ticks)
    axes.set_xticks(list(ticks), [f"{start:%H:%M}" for start in starts])
    return Plot(
        title="Bytes by time",
        caption=f"UTC; a bar is {BIN // 60} min, the highest {size_for_people(highest)}",
        svg=_svg(figure, "bytes", "Bytes by time", [_bytes_in_words(night, one) for one in steps]),
    )


@matplotlib.rc_context(_SETTINGS)
def latencies(night: Night) -> Plot | None:
    """Plot how soon files made each step; `None` if that is not known."""
    steps = [(step, step.latency) for step in night.steps if step.latency and step.latency.files]
    if not steps:
        return None
    figure, axes = _axes_of_rows(len(steps))
    for row, (step, latency) in enumerate(reversed(steps)):
        _add_latency(axes, row, latency, _series(night, step))
        axes.text(1, row + 0.64, step.name, color=_colour("ink"))
    axes.set_xscale("log")
    longest = max(_slowest(latency) for _, latency in steps)
    end = next((tick for tick in _TICKS if tick >= longest and tick > 10), max(_TICKS))
    axes.set_xlim(1, max(end, longest) * 1.05)
    axes.minorticks_off()
    ticks = {tick: text for tick, text in _TICKS.items() if tick <= end}
    axes.set_xticks(list(ticks), list(ticks.values()))
    return Plot(
        title="Latency",
        caption="dot: half of the files within; thick line: 95 %; thin line: 99 %; ring: the worst",
        svg=_svg(figure, "latency", "Latency", [_in_words(step.name, one) for step, one in steps]),
    )


def _add_latency(axes: Axes, row: int, latency: Latency, colour: str) -> None:
    median, p95, p99, worst = (
        max(seconds, 1) for seconds in (latency.median, latency.p95, latency.p99, _slowest(latency))
    )
    axes.axhline(row + 0.3, color=_colour("line"), linewidth=0.8)
    axes.plot([p95, p99], [row + 0.3] * 2, color=colour, linewidth=1.6)
    axes.plot([median, p95], [row + 0.3] * 2, color=colour, linewidth=5)
    ring: dict[str, Any] = {
        "markerfacecolor": _colour("card"),
        "markeredgecolor": colour,
        "markersize": 6,
    }
    axes.plot([worst], [row + 0.3], "o", clip_on=False, **ring)
    axes.plot([median], [row + 0.3], "o", clip_on=False, color=colour, markersize=8)


def _slowest(latency: Latency) -> float:
    return latency.worst[0].seconds if latency.worst else latency.p99


def _in_words(name: str, latency: Latency) -> str:
    half, p95, p99, worst = map(
        fields.span_text, (latency.median, latency.p95, latency.p99, _slowest(latency))
    )
    return (
        f"{name}: half of the files within {half}, 95 % within {p95}, 99 % within {p99}, "
        f"the worst {worst}."
    )


def _bytes_in_words(night: Night, step: Step) -> str:
    bins = [number for number, size in enumerate(step.bytes_by_time) if size]
    text = f"{step.name}: {size_for_people(sum(step.bytes_by_time))}"
    if bins:
        fullest = max(bins, key=lambda number: step.bytes_by_time[number])
        first, last, most = (
            f"{night.begins + timedelta(seconds=number * BIN):%H:%M}"
            for number in (bins[0], bins[-1] + 1, fullest)
        )
        text += f" from {first} to {last}, most of it from {most} on"
    return f"{'; '.join([text, *_outside(step)])}."


def _outside(step: Step) -> list[str]:
    """Return what made a step before the night, as it is configured, and after it."""
    outside = {"before": step.bytes_earlier, "later": step.bytes_later}
    return [f"{size_for_people(size)} {when}" for when, size in outside.items() if size]


def _axes_of_rows(count: int) -> tuple[Figure, Axes]:
    """Return a figure with so many rows above one axis."""
    height = count * _ROW + _LEGEND
    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    left, right = 18 / _WIDTH, 1 - 22 / _WIDTH
    axes = figure.add_axes((left, 24 / height, right - left, 1 - (_LEGEND - 6) / height))
    axes.set_ylim(-0.1, count + 0.1)
    axes.set_yticks([])
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_colour("quiet"))
    axes.tick_params(color=_colour("quiet"), labelcolor=_colour("quiet"))
    return figure, axes


def _colour(name: str) -> str:
    return f"#0a00{_COLOURS.index(name):02}"


def _series(night: Night, step: Step) -> str:
    """Return the colour of a step, the same in all plots of a night."""
    return f"#0a00{_SERIES + night.steps.index(step) % (len(_COLOURS) - _SERIES):02}"


def _svg(figure: Figure, identity: str, title: str, sentences: Sequence[str]) -> Markup:
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"#0a00(\d\d)", lambda found: f"var(--{_COLOURS[int(found[1])]})", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*; *", "", text)
    # Of two plots in a page, no two things have one name.
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{identity}-", text)
    head = (
        f'<svg role="img" aria-labelledby="{identity}-title {identity}-text"'
        f' viewBox="0 0 {_WIDTH} {figure.get_figheight() * 72:.0f}">'
        f'<title id="{identity}-title">{escape(title)}</title>'
        f'<desc id="{identity}-text">{escape(" ".join(sentences))}</desc>'
    )
    return Markup(head + re.sub(r"\s*\n\s*", "\n", text[text.index(">") + 1 :]))
