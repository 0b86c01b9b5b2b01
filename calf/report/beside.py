"""Published numbers beside ours: the table, and what has to be said above and under it, for every form of the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from calf.report.grids import NOTHING, RUNS, Cell, Grid, heading, interval, number, signed
from calf.report.published import NOT_PUBLISHED, NOT_RUN, Beside

PER_CASE = (
    "Ours are `per_case` scores: the mean over cases, with its 95 % CI over patients. A published number that was pooled over "
    "batches or averaged over slices, or of which that is not known, is not of the same unit as ours: its difference also holds "
    "what the other way of scoring does."
)
POOLED = (
    "Ours are `paper` scores: the mean over batches of shuffled slices ± the SD over batches, without an interval, as a batch is "
    "no patient. Only a published number that was pooled over batches likewise is of the same unit; one per case or per slice, "
    "or of which that is not known, is not."
)
DIFFERENCE = "ours - theirs"
Line = dict[str, Any]


def title(protocol: str) -> str:
    """A heading for the table of this protocol."""
    return f"Beside published numbers (`{protocol}`)" if protocol else "Beside published numbers"


def above(beside: Beside, protocol: str) -> list[str]:
    """What is to be known before the table is read: whose numbers, of which data and unit, and how many have ours beside them."""
    if not beside.published:
        return [f"{beside.file} has no row: nothing was published, and there is nothing to compare with."]
    lines = _published(beside, protocol)
    said = _stand_in(beside, protocol)
    said.append(f"Theirs are as printed, from {beside.file}; how they were scored is known as far as source and note say.")
    said += [{"": "No run has finished: there is none of ours.", "per_case": PER_CASE}.get(protocol, POOLED)]
    said += _batches(beside) if protocol == "per_case" else []
    return [*said, *_parts(beside, protocol, lines), *_classes(lines), *_settings(lines), _counted(beside, lines)]


def grid(beside: Beside, protocol: str) -> Grid:
    """One row a published number: theirs, ours with what it rests on, and the difference."""
    lines, sources, notes = _published(beside, protocol), _sources(beside), _notes(beside)
    words, numbers = _columns(beside, lines, protocol)
    marks: dict[str, Callable[[Line], str]] = {}
    if len(sources) > 1:
        marks["source"] = lambda line: str(sources.index(line["source"]) + 1)
    if notes:
        marks["note"] = lambda line: str(notes.index(line["note"]) + 1) if line["note"] else ""
    rows = [
        [
            *(Cell(text(line)) for text in words.values()),
            *(cell(line) for cell in numbers.values()),
            *(Cell(mark(line)) for mark in marks.values()),
        ]
        for line in lines
    ]
    return Grid([*words, *numbers, *marks], rows, num_text=len(words))


def below(beside: Beside, protocol: str) -> list[str]:
    """Sources and notes by the numbers that the table gives them, and what was run and not published."""
    sources, notes = _sources(beside), _notes(beside)
    said = [f"Source: {source}" for source in sources] if len(sources) == 1 else _listed("Source", sources)
    return [*said, *_listed("Note", notes), *_not_published(beside.of(protocol))]


def _published(beside: Beside, protocol: str) -> list[Line]:
    return [line for line in beside.of(protocol) if line["state"] != NOT_PUBLISHED]


def _columns(
    beside: Beside, lines: list[Line], protocol: str
) -> tuple[dict[str, Callable[[Line], str]], dict[str, Callable[[Line], Cell]]]:
    words: dict[str, Callable[[Line], str]] = {}
    if len({line["dataset"] for line in lines}) > 1:
        words["data set"] = lambda line: line["dataset"]
    if any(line["our_dataset"] != line["dataset"] for line in lines) and len({line["our_dataset"] for line in lines}) > 1:
        words["ours on"] = lambda line: line["our_dataset"]
    words |= {"model": lambda line: line["model"], "loss": lambda line: line["our_loss"]}
    if any(line["class"] for line in lines) or len({line["our_class"] for line in lines} - {""}) > 1:
        words["class"] = _class
    words["metric"] = lambda line: heading(line["metric"])
    spread = "[95 % CI]" if protocol == "per_case" else "± SD"
    numbers: dict[str, Callable[[Line], Cell]] = {
        "theirs": lambda line: Cell(f"{line['theirs']:f}"),
        f"ours {spread}": _ours,
        DIFFERENCE: lambda line: Cell(signed(line["difference"], line["metric"])),
        "seeds": lambda line: _count(line, "num_seeds"),
    }
    if protocol == "per_case":
        numbers["patients"] = lambda line: _count(line, "num_patients")
    numbers["batches" if protocol == "paper" else "cases"] = _cases
    if any(line["state"] and _has_ours(line) for line in lines):
        numbers[RUNS] = lambda line: Cell(line["state"] if _has_ours(line) else "")
    return words, numbers


def _has_ours(line: Line) -> bool:
    return not math.isnan(line["ours"])


def _ours(line: Line) -> Cell:
    if not _has_ours(line):
        return Cell(line["state"])
    metric, batches = line["metric"], line["protocol"] != "per_case" and not math.isnan(line["sd"])
    spread = f" ± {number(line['sd'], metric)}" if batches else interval(line["low"], line["high"], metric)
    return Cell(number(line["ours"], metric), spread)


def _count(line: Line, column: str) -> Cell:
    return Cell(NOTHING if math.isnan(line[column]) else f"{line[column]:.0f}")


def _cases(line: Line) -> Cell:
    scored, every = line["num_scored"], line["num_cases"]
    return _count(line, "num_cases") if math.isnan(every) or scored == every else Cell(f"{scored:.0f} of {every:.0f}")


def _class(line: Line) -> str:
    theirs, ours = line["class"], line["our_class"]
    return f"{theirs} (ours: {ours})" if theirs and ours and theirs != ours else theirs or ours


def _stand_in(beside: Beside, protocol: str) -> list[str]:
    if protocol not in beside.stand_in:
        return []
    ours = ", ".join(f"`{name}`" for name in beside.stand_in[protocol])
    theirs = ", ".join(f"`{name}`" for name in dict.fromkeys(row.dataset for row in beside.published))
    return [
        f"Ours are on {ours}, theirs on {theirs}: rows are matched by model and loss alone, and the difference says nothing "
        "about reproduction."
    ]


def _parts(beside: Beside, protocol: str, lines: list[Line]) -> list[str]:
    if protocol in beside.stand_in:
        return []
    joined = dict.fromkeys(line["dataset"] for line in lines if line["our_dataset"] != line["dataset"])
    return [f"Ours of {name} were tested apart on its parts, each of which has rows: none is the whole." for name in joined]


def _batches(beside: Beside) -> list[str]:
    told = sum("batch" in f"{row.source} {row.note}".lower() for row in beside.published)
    every = len(beside.published)
    return [f"Source or note speaks of batches for {told} of {every} published numbers."] if told else []


def _classes(lines: list[Line]) -> list[str]:
    """Where the file names no class and ours has several, or a mean over classes."""
    means = [line for line in lines if line["our_class"].startswith("mean of ")]
    over = ["A mean over classes is of their means over cases, and has no interval."] if means else []
    of: dict[str, dict[str, None]] = {}
    for line in lines:
        if not line["class"] and line["our_class"]:
            of.setdefault(line["our_dataset"], {})[line["our_class"]] = None
    return over + [
        f"The file names no class for {dataset}, and ours has {len(names)} ({', '.join(names)}): each is given by itself, and "
        "none of them need be what was published."
        for dataset, names in of.items()
        if len(names) > 1
    ]


def _settings(lines: list[Line]) -> list[str]:
    losses = dict.fromkeys(line["loss"] for line in lines if line["our_loss"] != line["loss"])
    return [f"Ours of {', '.join(losses)} were run with several settings, each of which has a row."] if losses else []


def _counted(beside: Beside, lines: list[Line]) -> str:
    place = ["dataset", "model", "loss", "metric", "class", "source"]
    done = {tuple(line[column] for column in place) for line in lines if _has_ours(line)}
    said = f"{len(done)} of {len(beside.published)} published numbers have one of ours beside them."
    if any(line["state"] != NOT_RUN for line in lines):
        return said
    return f"{said} None of the published models and losses was run: are they named as in the tables of this report?"


def _sources(beside: Beside) -> list[str]:
    return list(dict.fromkeys(row.source for row in beside.published))


def _notes(beside: Beside) -> list[str]:
    return list(dict.fromkeys(row.note for row in beside.published if row.note))


def _listed(what: str, texts: Iterable[str]) -> list[str]:
    return [f"{what} {place}: {text}" for place, text in enumerate(texts, start=1)]


def _not_published(lines: list[Line]) -> list[str]:
    """Ours that are beside no published number; of those that are beside some, beside_published.csv has the other metrics."""
    shown = {_place(line) for line in lines if line["state"] != NOT_PUBLISHED}
    left: dict[str, dict[str, None]] = {}
    for line in lines:
        if (place := _place(line)) not in shown:
            where, row = " / ".join(place[:2]), " / ".join(place[2:])
            left.setdefault(where, {})[row] = None
    return [f"Run on {where} and not published: {', '.join(rows)}" for where, rows in left.items()]


def _place(line: Line) -> tuple[str, ...]:
    return tuple(line[column] for column in ("our_dataset", "our_class", "model", "our_loss"))
