"""Names of one patient in several data sets, from the tables that come with the data."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from calf.data.layouts import folders_down_to

_TABLE = re.compile(r"(?!\.).*(?:mapping|metadata).*\.csv", re.IGNORECASE)
# case ids, whatever the case of their letters
_NAME = re.compile(
    r"brats1[789]_[a-z0-9]+_\w+_\d+|brats20_(?:training|validation|testing)_\d{3}|brats2021_\d{5}|brats-(?:gli|ssa)-\d{5}-\d{3}"
    r"|upenn-gbm-\d{5}_\d{2}|tcga-[a-z0-9]{2}-[a-z0-9]{4}",
    re.IGNORECASE,
)
_SPELT = ("Brats17_", "Brats18_", "BraTS19_", "BraTS20_", "BraTS2021_", "BraTS-GLI-", "BraTS-SSA-")  # on disk


def aliases_of_patients(
    root: Path, case_folder: re.Pattern[str], patient_of: Callable[[str], str | None]
) -> dict[str, tuple[str, ...]]:
    """For each patient, the ids under which other data sets know the same person, such as ``BraTS2021_00012``.

    A row of a table names one person, so every cell that is a case id of another data set is an alias of the patients whose
    case id stands in the row; which column it is in does not matter. Other cells (NA, grades, sites) are passed by. Tables
    are the CSV files with ``mapping`` or ``metadata`` in their name, in ``root``, in the folder that holds it, or below
    ``root`` but outside the folders of cases; fields are separated by comma, semicolon or tab. Without a table nobody has
    aliases.

    Args:
        root: folder of the data set.
        case_folder: what the name of a case's folder looks like.
        patient_of: the patient that a case id of this data set belongs to, None for any other text.

    Raises:
        ValueError: a table cannot be read as CSV.
    """
    found: dict[str, set[str]] = {}
    for table in _tables(root, case_folder):
        for row in _rows(table):
            names = {cell for cell in row if _NAME.fullmatch(cell) and patient_of(cell) is None}
            for patient in {patient for cell in row if (patient := patient_of(cell))}:
                found.setdefault(patient, set()).update(names)
    return {patient: tuple(sorted(names)) for patient, names in found.items()}


def _tables(root: Path, case_folder: re.Pattern[str]) -> list[Path]:
    if root.name.startswith("phantom-"):  # made up: the tables around it are of other people
        return []
    folders = [root.absolute().parent]
    folders += [folder for folder in folders_down_to(root, case_folder) if not case_folder.fullmatch(folder.name)]
    return [path for folder in folders for path in sorted(folder.iterdir()) if _TABLE.fullmatch(path.name) and path.is_file()]


def _rows(table: Path) -> Iterator[list[str]]:
    text = table.read_text(encoding="utf-8-sig", errors="replace")
    header = text.partition("\n")[0]
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count)):
            yield [_as_on_disk(cell.strip()) for cell in row]
    except csv.Error as error:
        raise ValueError(f"{table}: expected a CSV table with the ids of cases ({error}): repair it or take it away") from error


def _as_on_disk(cell: str) -> str:
    prefix = next((prefix for prefix in _SPELT if cell.casefold().startswith(prefix.casefold())), "")
    return prefix + cell[len(prefix) :]
