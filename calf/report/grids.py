"""The tables as grids of words, the same for Markdown, LaTeX and the page: what a cell says is decided here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.findings import Block, Findings, Row
from calf.report.friedman import Friedman
from calf.report.resampling import LEVEL
from calf.report.summary import COUNTED

NOTHING = "-"
EMPTY = "missed/FP/TN"
RUNS = "runs"
FINE = frozenset({"specificity", "mae", "accuracy", "ece", "ace", "brier"})  # near 0 or 1: a fourth digit tells them apart
NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "mae": "MAE",
    "ece": "ECE",
    "ace": "ACE",
    "brier": "Brier",
    "lesion_f1": "lesion F1",
    "false_positive_lesions": "FP lesions",
}
COARSE = ("_mm", "_ml", "_lesions")


@dataclass(frozen=True)
class Cell:
    """``text`` with ``rest`` behind it; ``best`` marks the text alone."""

    text: str
    rest: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A header and rows of as many cells; the first ``num_text`` columns are words; before the rows ``breaks`` a part begins."""

    header: list[str]
    rows: list[list[Cell]]
    num_text: int
    breaks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), (self.header, self.rows)


def number(value: float, metric: str) -> str:
    """A value as tables print it: mm, mL and numbers of lesions with two digits, shares with three or four."""
    if math.isnan(value):
        return NOTHING
    digits = 2 if metric.endswith(COARSE) else 4 if metric in FINE else 3
    return f"{value:.{digits}f}"


def p_value(value: float) -> str:
    """``<0.001``, else three digits."""
    return NOTHING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def heading(metric: str) -> str:
    """``hd95_mm`` as ``HD95, mm``."""
    name, _, unit = metric.rpartition("_")
    if metric.startswith("nsd_"):
        return f"NSD, {unit.removesuffix('mm')} mm"
    if unit in ("mm", "ml"):
        return f"{name.upper() if unit == 'mm' else name.replace('_', ' ')}, {'mL' if unit == 'ml' else unit}"
    return NAMES.get(metric, metric.replace("_", " "))


def best(block: Block) -> dict[str, set[Row]]:
    """For each metric the rows to be marked: the best and all that do not differ from it significantly.

    Where nothing was tested, the best mean as it is printed, so that what looks equal is marked alike, of the rows that are
    not ``apart``; nobody where all look equal, and never in a metric that has no best value.
    """
    marked: dict[str, set[Row]] = {}
    for metric in block.metrics:
        of = {row: lines[metric]["mean"] for row, lines in block.scores().items() if metric in lines}
        means = {row: mean for row, mean in of.items() if not math.isnan(mean)}
        printed = {row: number(mean, metric) for row, mean in means.items()}
        tested = block.comparison(metric) if block.baseline is not None else {}
        if metric in UNRANKED or len(set(printed.values())) < 2:
            continue
        if tested:
            marked[metric] = {row for row, line in tested.items() if line["equal_to_best"]}
            continue
        means = {row: mean for row, mean in means.items() if row not in block.apart.get(metric, {})}
        if means:
            top = number(min(means.values()) if metric in LOWER_IS_BETTER else max(means.values()), metric)
            marked[metric] = {row for row in means if printed[row] == top}
    return marked


def scores(block: Block, metrics: list[str]) -> Grid:
    """Mean ± SD over cases of these metrics, the counts of the empty rule, and the state of what did not go well."""
    stated = any(block.rows.values())
    marked = best(block)
    of = block.scores()
    rows = []
    for row, state in block.rows.items():
        cells = [Cell(name) for name in row]
        for metric in metrics:
            cells.append(_mean(of[row], metric, row in marked.get(metric, ())) if row in of else Cell(NOTHING))
        if block.per_case:
            cells.append(Cell(_counted(of[row]) if row in of else NOTHING))
        rows.append([*cells, *([Cell(state)] if stated else [])])
    header = ["model", "loss", *map(heading, metrics), *([EMPTY] if block.per_case else [])]
    return Grid([*header, *([RUNS] if stated else [])], rows, num_text=2)


def _mean(of: dict[str, dict[str, Any]], metric: str, marked: bool) -> Cell:
    if metric not in of:
        return Cell(NOTHING)
    shown = signed if metric in UNRANKED else number
    mean, sd = shown(of[metric]["mean"], metric), number(of[metric]["sd"], metric)
    return Cell(mean, "" if sd == NOTHING else f" ± {sd}", marked)


def _counted(of: dict[str, dict[str, Any]]) -> str:
    own = next(iter(of.values()))
    return f"{'/'.join(str(own[status]) for status in COUNTED)} of {own['num_scorings']}"


def comparisons(block: Block) -> Grid:
    """In the declared metric: mean with its interval, SD over seeds, difference to the baseline with its interval, and test."""
    table, metric = block.comparison(block.metric), block.metric
    marked = best(block).get(metric, set())
    header = ["model", "loss", f"{heading(metric)} [95 % CI]", "SD over seeds"]
    header += [f"difference to {block.baseline} [95 % CI]", "p", "p, Holm", "effect"] if block.baseline else []
    rows = []
    for row, state in block.rows.items():
        if row not in table:
            rows.append([*map(Cell, row), Cell(state or NOTHING), *[Cell(NOTHING)] * (len(header) - 3)])
            continue
        own = table[row]
        cells = [*map(Cell, row), Cell(number(own["mean"], metric), interval(own["low"], own["high"], metric), row in marked)]
        cells.append(Cell(number(own["seed_sd"], metric)))
        if block.baseline:
            cells += difference(own, metric, row[1] == block.baseline)
        rows.append(cells)
    return Grid(header, rows, num_text=2)


def difference(own: dict[str, Any], metric: str, is_baseline: bool) -> list[Cell]:
    """The four cells of a comparison with the baseline: difference with its interval, p, p after Holm, effect."""
    if is_baseline or math.isnan(own["difference"]):
        return [Cell("baseline" if is_baseline else NOTHING), *[Cell(NOTHING)] * 3]
    between = interval(own["difference_low"], own["difference_high"], metric, with_sign=True)
    p = Cell(p_value(own["p"]), " (sign depends on the seed)" if own["seeds_disagree"] else "")
    cells = [Cell(signed(own["difference"], metric), between), p, Cell(p_value(own["p_holm"]))]
    return [*cells, Cell(NOTHING if math.isnan(own["effect"]) else f"{own['effect']:+.2f}")]


def interval(low: float, high: float, metric: str, with_sign: bool = False) -> str:
    """`` [low, high]`` as tables print it, "" where there is none."""
    shown = signed if with_sign else number
    return "" if math.isnan(low) or math.isnan(high) else f" [{shown(low, metric)}, {shown(high, metric)}]"


def signed(value: float, metric: str) -> str:
    """A difference, with its sign."""
    text = number(value, metric)
    return text if text == NOTHING or value < 0 else f"+{text}"


def rested_on(block: Block) -> str:
    """How many cases, patients and seeds the rows of a table rest on, ranges where rows differ, and what is undefined."""
    own = block.summary
    unit = ("case", "cases") if block.per_case else ("batch", "batches")
    parts = [_range(own["num_cases"], *unit), _range(own["num_seeds"], "seed", "seeds")]
    if block.per_case:
        parts.insert(1, _range(own["num_patients"], "patient", "patients"))
    partly = own[(own["num_scored"] < own["num_cases"]) & own["metric"].isin(block.main_metrics)]
    defined: dict[str, list[str]] = {}
    for metric in block.main_metrics:
        if not (of := partly.loc[partly["metric"] == metric, "num_scored"]).empty:
            defined.setdefault(_range(of, *unit), []).append(heading(metric))
    parts[-1] += "".join(f"; {', '.join(names)} defined in {cases}" for cases, names in defined.items())
    return ", ".join(parts)


def _range(numbers: pd.Series, one: str, many: str) -> str:
    least, most = int(numbers.min()), int(numbers.max())
    return f"{least}{f' to {most}' if most > least else ''} {one if most == 1 else many}"


def cost(found: Findings) -> Grid:
    """What the finished runs of each model and loss took."""
    rows = []
    for (dataset, model, loss), runs in found.gathered.finished.groupby(["dataset", "model", "loss"], sort=False):
        epochs = sorted({int(epoch) for epoch in runs["best_epoch"].dropna()})
        chosen = ", ".join(map(str, epochs)) if len(epochs) <= 5 else f"{epochs[0]} to {epochs[-1]}"
        memory = f"{runs['peak_memory_mb'].max():.0f} ({', '.join(sorted(set(runs['peak_memory_of'].dropna())))})"
        minutes = runs["seconds"].sum() / 60
        took = [str(len(runs)), f"{runs['parameters'].max() / 1e6:.2f} M", f"{minutes:.1f}"]
        rows.append([Cell(str(text)) for text in (dataset, model, loss, *took, memory, chosen)])
    header = ["data set", "model", "loss", "runs", "parameters", "minutes in all", "peak memory, MB", "epochs tested"]
    return Grid(header, rows, num_text=3)


def friedman(found: Findings) -> Grid:
    """Friedman's tests of the declared metric: over data sets, and over the patients of each."""
    rows = []
    for test in found.friedman:
        numbers = [str(test.num_blocks), str(len(test.mean_ranks))]
        if not test.tested:
            rows.append([Cell(text) for text in (ranked_by(test), *numbers, *[NOTHING] * 6)])
            continue
        pairs = len(test.mean_ranks) * (len(test.mean_ranks) - 1) // 2
        apart = int((test.holm.to_numpy() <= LEVEL).sum()) // 2
        numbers += [f"{test.statistic:.2f}", p_value(test.p)]
        numbers += [f"{test.f:.2f}" if math.isfinite(test.f) else NOTHING, p_value(test.p_iman_davenport)]
        rows.append([Cell(ranked_by(test)), *map(Cell, numbers), Cell(p_value(test.p_permutation)), Cell(f"{apart} of {pairs}")])
    header = ["over", "blocks", "rows", "chi square", "p", "F", "p, Iman-Davenport", "p, permutation", "pairs that differ"]
    return Grid(header, rows, num_text=1)


def ranked_by(test: Friedman) -> str:
    """What the blocks of a test are."""
    return f"data sets ({test.protocol})" if test.over == "data sets" else f"patients of {test.dataset}: {test.name}"


def incomplete(found: Findings) -> Grid:
    """Every run that is in no table, with what is known of its end."""
    rows = []
    for run in found.gathered.incomplete.to_dict("records"):
        epoch = "" if pd.isna(run["epoch"]) else f"{run['epoch']:.1f}"
        rows.append([Cell(run["folder"]), Cell(run["state"]), Cell(epoch), Cell(run["error"])])
    return Grid(["run", "state", "epoch", "why"], rows, num_text=4)


def provenance(found: Findings) -> Grid:
    """One row a finished run: what it was made from."""
    rows = []
    for run in found.gathered.finished.to_dict("records"):
        marks = [_short(run[key]) for key in ("fingerprint", "store_key", "split_hash", "commit")]
        rows.append([Cell(run["folder"]), *map(Cell, marks)])
    return Grid(["run", "configuration", "data", "split", "commit"], rows, num_text=5)


def made_of(found: Findings) -> Iterator[str]:
    """The commits, prepared data and splits of the finished runs, and how many have each."""
    runs = found.gathered.finished
    for name, column in (("Commit", "commit"), ("Data", "store_key"), ("Split", "split_hash")):
        number_of = runs[column].map(_short).value_counts(sort=False)
        yield f"{name} {', '.join(f'{mark} ({number})' for mark, number in number_of.items())} of {len(runs)} runs."


def versions(found: Findings) -> Iterator[str]:
    """Each set of versions that runs were made with, and by how many."""
    sets = found.gathered.finished["versions"].map(_versions)
    for text, number_of in sets.value_counts(sort=False).items():
        yield f"{text} ({number_of} of {len(sets)} runs)"


def _versions(value: Any) -> str:
    return (
        ", ".join(f"{name} {version}" for name, version in value.items()) if isinstance(value, dict) and value else "not recorded"
    )


def _short(mark: Any) -> str:
    return str(mark)[:12] + ("+" if str(mark).endswith("+") else "") if isinstance(mark, str) else NOTHING
