"""Writes the summary for readers: a table for the terminal and a Markdown file."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calf.metrics.scores import EMPTY_RULE, LOWER_IS_BETTER, METRICS, MISSED, POOLED_RULE
from calf.report.results import Gathered
from calf.report.summary import BLOCK, COUNTED

SHORT = {"sensitivity": "sens.", "specificity": "spec.", "precision": "prec.", "accuracy": "acc."}
PER_CASE = (
    "The unit is the case: a score is of all voxels of a case, averaged over seeds within the case, then over cases. "
    f"{EMPTY_RULE} Missed, false positive and true negative are given out of all cases x seeds."
)
POOLED = (
    "The unit is a batch of shuffled slices, as the CALF authors score (arXiv 2504.04458): such a number is of no image and no "
    f"patient, and cannot be compared with `per_case` tables. {POOLED_RULE}"
)
IMBALANCE = (
    "Where the foreground is small, specificity near 1 and MAE near 0 (accuracy near 1) are the same for every method: they tell "
    "methods apart only when one of them fails altogether."
)
NOTHING = "-"


def _blocks(summary: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Protocol, data set, class and the rows of each table, one row a model and loss, still one a metric within."""
    for (protocol, dataset, name), block in summary.groupby(BLOCK, sort=False):
        yield str(protocol), str(dataset), str(name), block


def _metrics(block: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(block["metric"]))


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"


def _best(block: pd.DataFrame) -> dict[str, str]:
    """For each metric the best mean as it is printed, so that what looks equal is marked alike; nothing where all are equal."""
    best = {}
    for metric, rows in block.groupby("metric", sort=False):
        means = rows["mean"].dropna()
        if means.map(_number).nunique() > 1:
            best[str(metric)] = _number(means.min() if metric in LOWER_IS_BETTER else means.max())
    return best


def _per_case(block: pd.DataFrame) -> bool:
    return bool(block["protocol"].iloc[0] == "per_case")


def _range(numbers: pd.Series, one: str, many: str) -> str:
    least, most = int(numbers.min()), int(numbers.max())
    return f"{least}{f' to {most}' if most > least else ''} {one if most == 1 else many}"


def _rested_on(block: pd.DataFrame) -> str:
    """How many cases, patients and seeds the rows of a table rest on, ranges where rows differ, and what is undefined."""
    unit = ("case", "cases") if _per_case(block) else ("batch", "batches")
    parts = [_range(block["num_cases"], *unit), _range(block["num_seeds"], "seed", "seeds")]
    if _per_case(block):
        parts.insert(1, _range(block["num_patients"], "patient", "patients"))
    if not (partly := block[block["num_scored"] < block["num_cases"]]).empty:
        parts[-1] += f"; {', '.join(_metrics(partly))} defined in {_range(partly['num_scored'], *unit)}"
    return ", ".join(parts)


def _share(of: pd.DataFrame, status: str) -> str:
    return f"{of[status].iloc[0]}/{of['num_scorings'].iloc[0]}"


def _foot(summary: pd.DataFrame) -> list[str]:
    """What has to be said under the tables of these protocols."""
    lines = []
    for protocol in dict.fromkeys(summary["protocol"]):
        lines.append(f"`{protocol}`: {PER_CASE if protocol == 'per_case' else POOLED}")
    return [*lines, IMBALANCE] if lines else []


def markdown(gathered: Gathered, summary: pd.DataFrame, notes: list[str]) -> str:
    """The whole report as Markdown: a table a protocol, data set and class, what they mean, and what is not in them."""
    parts = [f"# Results of {gathered.folder.resolve().name}"]
    for protocol, dataset, name, block in _blocks(summary):
        parts += [f"## {dataset}: {name} (`{protocol}`)", _markdown_block(block), f"{_rested_on(block)}."]
    if summary.empty:
        parts.append("No run has finished yet.")
    else:
        parts += [
            "Mean ± SD over cases (batches); the SD over seeds is in `report.csv`; best mean in bold, of MAE the lowest.",
            *_foot(summary),
        ]
        parts += ["## Cost", _cost(gathered)]
    if notes:
        parts += ["## Mind", "\n".join(f"- {note}" for note in notes)]
    if not gathered.incomplete.empty:
        parts += ["## Incomplete runs", "These are in no table above.", _incomplete(gathered)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: list[str], rows: list[list[str]], num_text: int) -> str:
    rule = ["---"] * num_text + ["---:"] * (len(header) - num_text)
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *safe])


def _markdown_block(block: pd.DataFrame) -> str:
    metrics, best = _metrics(block), _best(block)
    counted = COUNTED if _per_case(block) else ()
    rows = []
    for (model, loss), row in block.groupby(["model", "loss"], sort=False):
        of = row.set_index("metric")
        cells = []
        for metric in metrics:
            mean, sd = _number(of["mean"].get(metric, math.nan)), _number(of["sd"].get(metric, math.nan))
            cells.append((f"**{mean}**" if mean == best.get(metric) else mean) + ("" if sd == NOTHING else f" ± {sd}"))
        rows.append([str(model), str(loss), *cells, *(_share(of, status) for status in counted)])
    return _markdown_table(["model", "loss", *metrics, *(status.replace("_", " ") for status in counted)], rows, num_text=2)


def _cost(gathered: Gathered) -> str:
    """What the finished runs of each model and loss took."""
    rows = []
    for (dataset, model, loss), runs in gathered.finished.groupby(["dataset", "model", "loss"], sort=False):
        epochs = sorted({int(epoch) for epoch in runs["best_epoch"].dropna()})
        chosen = ", ".join(map(str, epochs)) if len(epochs) <= 5 else f"{epochs[0]} to {epochs[-1]}"
        memory = f"{runs['peak_memory_mb'].max():.0f} ({', '.join(sorted(set(runs['peak_memory_of'].dropna())))})"
        took = [str(len(runs)), f"{runs['parameters'].max() / 1e6:.2f} M", f"{runs['seconds'].sum() / 60:.1f}", memory, chosen]
        rows.append([str(dataset), str(model), str(loss), *took])
    header = ["data set", "model", "loss", "runs", "parameters", "minutes in all", "peak memory, MB", "epochs tested"]
    return _markdown_table(header, rows, num_text=3)


def _incomplete(gathered: Gathered) -> str:
    rows = []
    for run in gathered.incomplete.to_dict("records"):
        epoch = "" if pd.isna(run["epoch"]) else f"{run['epoch']:.1f}"
        rows.append([f"`{run['folder']}`", run["state"], epoch, run["error"]])
    return _markdown_table(["run", "state", "epoch", "why"], rows, num_text=4)


def terminal(gathered: Gathered, summary: pd.DataFrame, notes: list[str]) -> RenderableType:
    """The same for the eye, 100 columns wide; SD stands under the mean."""
    parts: list[RenderableType] = [_terminal_block(*block) for block in _blocks(summary)]
    if summary.empty:
        parts.append(Text("no run has finished yet", style="bold"))
    else:
        parts.append(
            Text("mean, and below it the SD over cases (batches); best mean in green; of mae the lowest is best", style="dim")
        )
    parts += [Text(note, style="yellow") for note in notes]
    for run in gathered.incomplete.to_dict("records"):
        parts.append(Text.assemble((f"{run['state']}: ", "bold red"), run["folder"], (f"  {run['error']}", "dim")))
    return Group(*parts)


def _terminal_block(protocol: str, dataset: str, name: str, block: pd.DataFrame) -> Table:
    metrics, best = [metric for metric in _metrics(block) if metric in METRICS], _best(block)
    table = Table(
        title=Text(f"{dataset}: {name} ({protocol})"), caption=_rested_on(block), title_justify="left", caption_justify="left"
    )
    table.add_column("model", overflow="fold")
    table.add_column("loss", overflow="fold")
    counted = [MISSED] if _per_case(block) else []
    for heading in [*(SHORT.get(metric, metric) for metric in metrics), *counted]:
        table.add_column(heading, justify="right", no_wrap=True)
    for (model, loss), row in block.groupby(["model", "loss"], sort=False):
        of = row.set_index("metric")
        cells = []
        for metric in metrics:
            mean, sd = _number(of["mean"].get(metric, math.nan)), of["sd"].get(metric, math.nan)
            style = "bold green" if mean == best.get(metric) else ""
            cells.append(Text.assemble((mean, style), ("" if math.isnan(sd) else f"\n±{sd:.3f}".replace("±0.", "±."), "dim")))
        # as text, or rich would take calf[clamp=null] for markup and print calf
        table.add_row(Text(str(model)), Text(str(loss)), *cells, *(_share(of, status) for status in counted))
    return table
