"""The fingerprint of a data set, before anything is trained: ``calf inspect dataset=...``."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from calf.data.build import left_out
from calf.data.store import SliceStore
from calf.files import write_json
from calf.inspect.document import document, terminal
from calf.inspect.fingerprint import Data, fingerprint
from calf.inspect.measure import measure_cases
from calf.inspect.samples import samples


def inspect(name: str, data: Data, out: Path, workers: int | None = None) -> Path:
    """Measure a data set, print a summary, and write ``index.html`` and ``fingerprint.json`` to ``out``.

    It is prepared first where it is not yet. The image files of every case are read again, for their intensities. Without a
    split that can be made the page says why.

    Args:
        name: of the data set.
        data: a :class:`calf.data.datamodule.SliceData`.
        workers: threads that measure; None: one a core.

    Returns:
        The page.

    Raises:
        ValueError: the data cannot be prepared, or an image can no longer be read.
    """
    store = SliceStore(data.store.folder)  # of whole cases, also where each modality is a sample
    console = Console(highlight=False)
    for line in left_out(data.plan, store):
        console.print(line, markup=False)
    measured = measure_cases(data.plan.cases, store, workers or os.cpu_count() or 1)
    found = fingerprint(name, data, store, measured)
    write_json(out / "fingerprint.json", found)
    page = out / "index.html"
    document(found, samples(store, measured)).write(page)
    console.print(terminal(found))
    return page
