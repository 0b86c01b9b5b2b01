"""Everything that a report says, before it is written: summaries, comparisons and the state of every cell, table by table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from calf.metrics.scores import UNRANKED
from calf.report import training
from calf.report.brats import has_empty_references, ruled, under_brats_rule
from calf.report.cells import of_data_set, separate
from calf.report.checks import check_comparable, notes
from calf.report.friedman import Friedman, friedman
from calf.report.limits import training_limits
from calf.report.marks import candidates
from calf.report.ranks import kendall_tau, ranks
from calf.report.results import FINISHED, Gathered, gather
from calf.report.statistics import compare
from calf.report.strata import strata
from calf.report.summary import BLOCK, summarise
from calf.report.units import MADE_ON, arrange, made_on, rows_of

BASELINE = "bce"
Row = tuple[str, str]  # model, loss


@dataclass(frozen=True)
class Block:
    """One table: a protocol, data set and class.

    ``rows``: every model and loss that was begun, in order, with what is to be said of its runs ("" where all are finished);
    a row whose every run failed has no line in ``summary``. ``compared``: what :func:`calf.report.statistics.compare` gives,
    with a column ``metric``, one line a row and main metric; empty where the units are no patients. ``baseline``: None where
    nothing was tested. ``strata``: what :func:`calf.report.strata.strata` gives of the declared metric, empty where the units
    are no cases; ``limits``: what its limits are, in words. ``agreement``: what :func:`calf.report.ranks.kendall_tau` gives of
    all metrics. ``brats``: the same cases under the BraTS rule, None where that changes nothing. ``apart``: for each metric the
    rows that are neither its best nor equal to that, whatever their mean, and why (:func:`calf.report.marks.candidates`).
    """

    protocol: str
    dataset: str
    name: str
    metric: str
    baseline: str | None
    rows: dict[Row, str]
    summary: pd.DataFrame
    compared: pd.DataFrame
    cases: pd.DataFrame
    strata: pd.DataFrame = field(default_factory=pd.DataFrame)
    limits: str = ""
    agreement: pd.DataFrame = field(default_factory=pd.DataFrame)
    brats: Block | None = None
    apart: dict[str, dict[Row, str]] = field(default_factory=dict)

    @property
    def per_case(self) -> bool:
        return self.protocol == "per_case"

    @property
    def metrics(self) -> list[str]:
        """All of them, in the order of the summary."""
        return list(dict.fromkeys(self.summary["metric"]))

    @property
    def main_metrics(self) -> list[str]:
        """Those of the main table, the declared one first; the others are supplementary."""
        return main_metrics(self.metrics, self.metric)

    def comparison(self, metric: str) -> dict[Row, dict[str, Any]]:
        """For each finished row its line of ``compared`` in this metric; empty where there is none."""
        own = self.compared[self.compared["metric"] == metric]
        return {(line["model"], line["loss"]): line for line in records(own)}

    def scores(self) -> dict[Row, dict[str, dict[str, Any]]]:
        """For each finished row and metric its line of ``summary``."""
        found: dict[Row, dict[str, dict[str, Any]]] = {}
        for line in records(self.summary):
            found.setdefault((line["model"], line["loss"]), {})[line["metric"]] = line
        return found


@dataclass(frozen=True)
class Findings:
    """What is known of the runs below a folder.

    ``history``: the rows of their history.csv. ``ranks`` and ``friedman``: of the declared metric, what
    :func:`calf.report.ranks.ranks` and :func:`calf.report.friedman.friedman` give of all tables.
    """

    gathered: Gathered
    metric: str
    summary: pd.DataFrame
    compared: pd.DataFrame
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    history: pd.DataFrame
    ranks: pd.DataFrame = field(default_factory=pd.DataFrame)
    friedman: tuple[Friedman, ...] = ()

    @property
    def title(self) -> str:
        return f"Results of {self.gathered.folder.resolve().name}"


def find(folder: Path, baseline: str | None = None, metric: str = "dice") -> Findings:
    """Gather the runs at or below ``folder`` and compare their losses.

    Args:
        folder: of runs.
        baseline: the loss that others are compared with; None: ``bce`` where a table has it, else its first by name.
        metric: the one that was declared before the runs were looked at.

    Raises:
        ValueError: there is no run, runs may not be averaged, or no run has this baseline or metric.
    """
    return find_in(gather(folder), baseline, metric)


def find_in(
    gathered: Gathered, baseline: str | None = None, metric: str = "dice", table: tuple[str, str] | None = None
) -> Findings:
    """As :func:`find`, of runs that were gathered already; ``table``: of this data set and class alone, without the others."""
    of_run = {run["folder"]: made_on(run["store_key"], run["split_hash"]) for run in gathered.finished.to_dict("records")}
    made = gathered.cases.index.map(of_run)
    gathered, told = separate(gathered)
    check_comparable(gathered)
    every_case = gathered.cases.assign(**{MADE_ON: made})
    if table is not None:
        every_case = every_case[(every_case[["dataset", "class"]] == list(table)).all(axis=1)]
        if every_case.empty:
            raise ValueError(f"none of these runs has finished and tested {table[1]} of {table[0]}")
    summary = summarise(every_case)
    _check(summary, baseline, metric)
    history, odd = training.read(gathered, "history.csv")
    damaged = training.told("history.csv", odd)
    if table is None:  # branches are of no table
        damaged += training.told("branches.csv", training.read(gathered, "branches.csv")[1])
    marks = {"diverged": training.diverged(history), "with an unreadable history": set(odd)}
    blocks = []
    for (protocol, dataset, name), own in summary.groupby(BLOCK, sort=False):
        cases = every_case[(every_case[BLOCK] == [protocol, dataset, name]).all(axis=1)]
        rows = _rows(gathered, str(protocol), str(dataset), marks)
        blocks.append(_block(gathered, (str(protocol), str(dataset), str(name)), metric, baseline, rows, own, cases))
    every = [block.compared for block in blocks if not block.compared.empty]
    compared = pd.concat(every, ignore_index=True) if every else _nothing()
    remarks = (*_without_baseline(blocks, baseline), *told, *notes(gathered), *damaged, *_found_nothing(summary))
    if not blocks:
        return Findings(gathered, metric, summary, compared, (), remarks, history)
    tests = tuple(friedman(every_case, metric))
    return Findings(gathered, metric, summary, compared, tuple(blocks), remarks, history, ranks(every_case, metric), tests)


def _block(
    gathered: Gathered,
    where: tuple[str, str, str],
    metric: str,
    asked: str | None,
    rows: dict[Row, str],
    summary: pd.DataFrame,
    cases: pd.DataFrame,
) -> Block:
    metrics = list(dict.fromkeys(summary["metric"]))
    agreement = kendall_tau(cases, metrics)
    if where[0] != "per_case":
        return Block(*where, metric, None, rows, summary, _nothing(), cases, agreement=agreement, apart=_apart(cases, metrics))
    against, limits = _baseline(summary, asked), training_limits(gathered, *where)
    of_size = strata(cases, metric, limits.edges_mm3, against, edges_from=limits.said) if metric in metrics else pd.DataFrame()
    said = limits.said if limits.edges_mm3 is not None else f"tertiles of the tested references, since {limits.said}"
    return Block(
        *where,
        metric,
        against,
        rows,
        summary,
        _compare(cases, main_metrics(metrics, metric), against),
        cases,
        of_size,
        said,
        agreement,
        _under_brats_rule(where, metric, against, rows, cases),
        _apart(cases, metrics),
    )


def _apart(cases: pd.DataFrame, metrics: list[str]) -> dict[str, dict[Row, str]]:
    found: dict[str, dict[Row, str]] = {}
    for metric in metrics:
        for scores in arrange(rows_of(cases, metric)):
            _, notes = candidates(scores)
            found[metric] = {row: note for row, note in zip(scores.rows, notes, strict=True) if note}
    return found


def _under_brats_rule(
    where: tuple[str, str, str], metric: str, baseline: str | None, rows: dict[Row, str], cases: pd.DataFrame
) -> Block | None:
    if not has_empty_references(cases):
        return None
    cases = under_brats_rule(cases)
    metrics = list(dict.fromkeys(cases["metric"]))
    declared = metric if ruled(metric) else "dice"
    compared = _compare(cases, metrics, baseline)
    return Block(*where, declared, baseline, rows, summarise(cases), compared, cases, apart=_apart(cases, metrics))


def main_metrics(metrics: list[str], metric: str) -> list[str]:
    """The declared metric, Dice, surface Dice, HD95, then the rest of the charter's five."""
    surfaces = [name for name in metrics if name.startswith("nsd_")] + ["hd95_mm"]
    wanted = dict.fromkeys([metric, "dice", *surfaces, "sensitivity", "specificity", "precision", "mae"])
    return [name for name in wanted if name in metrics]


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table."""
    return [{str(column): value for column, value in line.items()} for line in table.to_dict("records")]


def _check(summary: pd.DataFrame, baseline: str | None, metric: str) -> None:
    metrics, losses = list(dict.fromkeys(summary["metric"])), sorted(set(summary["loss"]))
    if summary.empty:
        return
    if metric not in metrics:
        raise ValueError(f"--metric: expected one that the runs have, {', '.join(metrics)}; got {metric}")
    if metric in UNRANKED:
        raise ValueError(f"--metric: {metric} has no best value, since errors of opposite sign cancel in its mean; take another")
    if baseline is not None and baseline not in losses:
        raise ValueError(f"--baseline: expected one of the finished losses, {', '.join(losses)}; got {baseline}")


def _baseline(summary: pd.DataFrame, asked: str | None) -> str | None:
    losses = sorted(set(summary["loss"]))
    if len(losses) < 2:
        return None
    if asked is not None:
        return asked if asked in losses else None
    return BASELINE if BASELINE in losses else losses[0]


def _compare(cases: pd.DataFrame, metrics: list[str], baseline: str | None) -> pd.DataFrame:
    tables = []
    for metric in metrics:
        # runs made before a metric was known have no rows of it, and the baseline may be one of them
        has_it = baseline in set(cases.loc[cases["metric"] == metric, "loss"])
        table = compare(cases, metric, baseline if has_it else None)
        table.insert(0, "metric", metric)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else _nothing()


def _nothing() -> pd.DataFrame:
    return pd.DataFrame(columns=["metric", *BLOCK, "model", "loss"])


def _rows(gathered: Gathered, protocol: str, dataset: str, marks: dict[str, set[str]]) -> dict[Row, str]:
    """Every model and loss begun on a data set under a protocol, sorted, and what is to be said of its runs.

    ``marks``: what is said of finished runs in these folders.
    """
    runs = gathered.runs
    here = runs["dataset"].map(lambda name: of_data_set(dataset, name))
    rows = {}
    for (model, loss), own in runs[here & runs["protocol"].isin([protocol, ""])].groupby(["model", "loss"], sort=True):
        states = own["state"].value_counts(sort=False)
        finished = int(states.get(FINISHED, 0))
        said = [f"{number} {state}" for state, number in states.items() if state != FINISHED]
        for mark, folders in marks.items():
            if number := len(folders & set(own.loc[own["state"] == FINISHED, "folder"])):
                said.append(f"{number} {mark}")
        if finished == 0 and len(states) == 1:
            said = [str(states.index[0])]
        elif finished < len(own):
            said.insert(0, f"{finished} of {len(own)} runs")
        rows[str(model), str(loss)] = ", ".join(said)
    return rows


def _without_baseline(blocks: list[Block], asked: str | None) -> list[str]:
    return [
        f"{block.protocol} / {block.dataset} / {block.name}: no finished run of {asked}, so nothing is tested."
        for block in blocks
        if asked is not None and block.per_case and asked not in set(block.summary["loss"])
    ]


def _found_nothing(summary: pd.DataFrame) -> list[str]:
    """Rows in which every case that has the target is missed."""
    rows = summary.drop_duplicates([*BLOCK, "model", "loss"])
    silent = rows[(rows["missed"] > 0) & (rows["missed"] + rows["true_negative"] == rows["num_scorings"])]
    return [
        f"{row['protocol']} / {row['dataset']} / {row['class']}: {row['model']} / {row['loss']} predicts nothing in any case."
        for row in silent.to_dict("records")
    ]
