"""Values by case for ranking tools: long tables as challengeR reads them (Wiesenfarth et al. 2021, https://doi.org/10.1038/s41598-021-82017-6)."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from calf.metrics.scores import UNRANKED
from calf.report.cells import label
from calf.report.findings import Block, Findings
from calf.report.statistics import per_unit

COLUMNS = ["task", "case", "algorithm", "value"]


def tables(found: Findings) -> Iterator[tuple[str, pd.DataFrame]]:
    """For each metric that has a best value its name and a table ``COLUMNS``, of all ``per_case`` blocks together.

    ``task``: data set and class; ``algorithm``: model and loss; ``value``: the mean over seeds. Every algorithm of a task has a
    row in every case that any of them has, NaN where the empty rule leaves it undefined or it was not scored: nothing is
    dropped. In R: ``as.challenge(read.csv(file), by = "task", case = "case", algorithm = "algorithm", value = "value",
    smallBetter = FALSE, na.treat = "na.rm")``, with ``smallBetter = TRUE`` for errors and distances.
    """
    blocks = [block for block in found.blocks if block.per_case]
    for metric in dict.fromkeys(metric for block in blocks for metric in block.metrics):
        if metric not in UNRANKED:
            yield metric, pd.concat([_task(block, metric) for block in blocks if metric in block.metrics], ignore_index=True)


def _task(block: Block, metric: str) -> pd.DataFrame:
    values = per_unit(block.cases, metric)
    cases = list(values.index.get_level_values("case"))
    parts = [
        pd.DataFrame({"case": cases, "algorithm": label(row), "value": values[row].to_numpy()})
        for row in block.rows
        if row in values
    ]
    return pd.concat(parts, ignore_index=True).assign(task=f"{block.dataset} / {block.name}")[COLUMNS]
