"""What a report says of one table, without the others: of the runs that were chosen, for one class of one data set."""

from __future__ import annotations

from calf.report.cells import separate
from calf.report.checks import check_comparable, notes
from calf.report.findings import Findings, _block, _check, _found_nothing, _rows
from calf.report.results import Gathered
from calf.report.summary import summarise
from calf.report.training import diverged, histories
from calf.report.units import MADE_ON, made_on


def find_block(gathered: Gathered, dataset: str, name: str, metric: str, baseline: str | None) -> Findings:
    """As :func:`calf.report.findings.find` of these runs, which are of one protocol, with this block alone.

    Raises:
        ValueError: none of them is finished and has these cases, runs may not be averaged, or none has this baseline or metric.
    """
    of_run = {run["folder"]: made_on(run["store_key"], run["split_hash"]) for run in gathered.finished.to_dict("records")}
    made = gathered.cases.index.map(of_run)
    gathered, told = separate(gathered)
    check_comparable(gathered)
    cases = gathered.cases.assign(**{MADE_ON: made})
    cases = cases[(cases["dataset"] == dataset) & (cases["class"] == name)]
    if cases.empty:
        raise ValueError(f"none of these runs has finished and tested {name} of {dataset}")
    summary, history = summarise(cases), histories(gathered)
    _check(summary, baseline, metric)
    protocol = str(cases["protocol"].iloc[0])
    rows = _rows(gathered, protocol, dataset, diverged(history))
    block = _block(gathered, (protocol, dataset, name), metric, baseline, rows, summary, cases)
    remarks = (*told, *notes(gathered), *_found_nothing(summary))
    return Findings(gathered, metric, summary, block.compared, (block,), remarks, history)
