"""What stands in addresses: ids, and the address of Compare."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from calf.ui.render import MOST_RUNS


def split_ids(text: str) -> list[str]:
    """The ids in a text that separates them by commas."""
    return [id for id in text.split(",") if id]


def compare_address(case: str, runs: Sequence[str], name: str, threshold: int | None = None) -> str:
    """Of the page that shows this case with these runs, the first ``MOST_RUNS``; ``name``: of the class."""
    query = {"case": case, "runs": ",".join(runs[:MOST_RUNS]), "name": name}
    if threshold is not None:
        query["threshold"] = str(threshold)
    return "/compare?" + urlencode(query, safe=",")
