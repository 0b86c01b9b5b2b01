"""Any data set, by a table of its files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyarrow import ArrowException

from calf.data.cases import Case, Image, Target
from calf.data.targets import check_labels, class_targets, parse_targets

EXPECTED = (
    "a table of its files, manifest.csv or manifest.parquet, with the columns patient, mask and one for each modality "
    "(and, if wanted, id, reference and subset)"
)
_FIXED = ("id", "patient", "mask", "reference", "subset")
_FILES = ("mask", "reference")


class Manifest:
    """A row a case, of a CSV file (comma, semicolon or tab) or of a Parquet file.

    Columns: ``patient``; ``mask``; one for each modality, named after it; if wanted ``id`` (else the patient is the id, and
    must then be unique), ``reference`` (scored against instead of the mask) and ``subset`` (the official part of the case).
    Files are NIfTI, what ITK reads, folders with one DICOM series, or DICOM segmentations; relative paths start at the table's
    folder. An empty cell: the case has no such file; one without a mask can only be predicted. Text is taken as it is
    (patient 007 is not 7), but for blanks around it.

    Every file must be there, no two patients may share one, and no id may occur twice.

    Args:
        root: the table, or the folder with ``manifest.csv`` or ``manifest.parquet``.
        labels: what each value of a mask means, such as ``{0: background, 1: tumour}``; no other value may occur.
        targets: what can be segmented, see :func:`calf.data.targets.parse_targets`; None: each label by its name, ``foreground``
            (all of them) and, of at most 8 labels, ``classes`` (exclusive).
        modalities: columns that hold images, other columns are then passed by; None: all but those named above.
    """

    def __init__(
        self,
        root: Path | str,
        labels: Mapping[int, str] | None,
        targets: Mapping[str, Any] | None = None,
        modalities: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self._labels, self._targets, self._modalities = labels, targets, modalities

    @cached_property
    def labels(self) -> dict[int, str]:
        """The label values as given; a ValueError if there are none."""
        if self._labels is None:
            raise ValueError(
                f"{self.root}: dataset.layout.labels is not set: say what the masks hold, such as {{0: background, 1: tumour}}"
            )
        return check_labels(self._labels, "dataset.layout.labels")

    @cached_property
    def targets(self) -> dict[str, Target]:
        """The targets as given, or those of the labels."""
        if self._targets is None:
            return class_targets(self.labels, "foreground", "dataset.layout.labels")
        if not self._targets:
            raise ValueError("dataset.layout.targets is empty: name at least one, or take null for one a label")
        return parse_targets(self._targets, self.labels, "dataset.layout.targets")

    @cached_property
    def path(self) -> Path:
        """The table; a ValueError if there is none, or more than one."""
        if self.root.is_file():
            return self.root
        found = [path for path in (self.root / "manifest.csv", self.root / "manifest.parquet") if path.is_file()]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{found[0]} and {found[1].name}: name one of them with data_root=...")
        what = "no such file or folder" if not self.root.exists() else "no table in that folder"
        raise ValueError(f"{self.root.absolute()}: {what}: expected {EXPECTED}. Write it, and name it with data_root=...")

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """The columns with images, in the order asked for, else in the table's."""
        columns, _ = self._table
        given = tuple(name for name in columns if name not in _FIXED) if self._modalities is None else tuple(self._modalities)
        if missing := [name for name in ("patient", "mask", *given) if name not in columns]:
            raise ValueError(
                f"{self.path}: the columns {', '.join(missing)} are missing; it has {', '.join(columns)}. Expected {EXPECTED}"
            )
        if not given or any(name in _FIXED for name in given):
            raise ValueError(f"{self.path}: expected at least one column of images beside {', '.join(_FIXED)}, got {given}")
        return given

    def ensure(self) -> None:
        """Raise a ValueError that says what is wrong with labels, targets, or the table's name or columns."""
        _ = self.targets, self.modalities

    def cases(self) -> list[Case]:
        """A case a row, sorted by id; a ValueError names every missing file, doubled id or shared file."""
        self.ensure()
        _, rows = self._table
        if not rows:
            raise ValueError(f"{self.path} has no row: expected one a case")
        cases = [self._case(number, row, self.modalities) for number, row in rows]
        self._check(cases)
        return sorted(cases, key=lambda case: case.id)

    def _case(self, number: int, row: dict[str, str], modalities: Iterable[str]) -> Case:
        if not row["patient"] or not row.get("id", "x"):
            raise ValueError(f"{self.path}, line {number}: the patient{' or the id' if 'id' in row else ''} is missing")
        images = {modality: Image(self._file(row[modality])) for modality in modalities if row[modality]}
        mask, reference = (self._file(row[name]) if row.get(name) else None for name in _FILES)
        if not images:
            raise ValueError(f"{self.path}, line {number}: expected an image of {', '.join(modalities)}, all are empty")
        if reference is not None and mask is None:
            raise ValueError(f"{self.path}, line {number}: a reference without a mask; expected the mask to train on as well")
        return Case(row.get("id", row["patient"]), row["patient"], images, mask, reference, row.get("subset") or None)

    def _file(self, name: str) -> Path:
        return self.path.parent / Path(name).expanduser()

    def _check(self, cases: list[Case]) -> None:
        twice = [name for name, count in Counter(case.id for case in cases).items() if count > 1]
        if twice:
            hint = "make them unique" if "id" in self._table[0] else "a patient with several cases needs a column id"
            raise ValueError(f"{self.path}: {len(twice)} ids occur more than once: {', '.join(sorted(twice))}; {hint}")
        missing = [f"{case.id}: {path}" for case in cases for path in case.files() if not path.exists()]
        if missing:
            raise ValueError(
                f"{self.path} names {len(missing)} missing files (relative paths start at {self.path.parent.absolute()}):"
                + "".join(f"\n  {line}" for line in missing)
                + f"\nRepair or remove the rows; columns taken for images are {', '.join(self.modalities)} (layout.modalities)"
            )
        owner: dict[Path, Case] = {}
        for case in cases:
            for path in case.files():
                other = owner.setdefault(path.resolve(), case)
                if other.patient != case.patient:
                    raise ValueError(
                        f"{self.path}: {path} belongs to the cases {other.id} and {case.id} of two patients, "
                        f"{other.patient} and {case.patient}: expected a file of its own for each, or one patient"
                    )

    @cached_property
    def _table(self) -> tuple[tuple[str, ...], list[tuple[int, dict[str, str]]]]:
        """Columns, and rows with the line each has in a text file."""
        lines = _read_parquet(self.path) if self.path.suffix == ".parquet" else _read_text(self.path)
        if not lines:
            raise ValueError(f"{self.path} is empty: expected {EXPECTED}")
        (_, header), *rows = lines
        doubled = [name for name, count in Counter(header).items() if count > 1 or not name]
        if doubled:
            raise ValueError(f"{self.path}: expected columns of distinct names, got {', '.join(header)}")
        for number, row in rows:
            if len(row) != len(header):
                raise ValueError(f"{self.path}, line {number}: expected a field for each of {', '.join(header)}, got {len(row)}")
        return tuple(header), [(number, dict(zip(header, row, strict=True))) for number, row in rows]


def _read_text(path: Path) -> list[tuple[int, list[str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            lines = [(reader.line_num, [field.strip() for field in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table as UTF-8 text (.csv) or .parquet: {error}") from error
    return [(number, fields) for number, fields in lines if any(fields)]


def _read_parquet(path: Path) -> list[tuple[int, list[str]]]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path}: expected a Parquet file, cannot read it: {error}") from error
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    lines = [(0, [str(name).strip() for name in table.column_names])]
    return lines + [(number, [_text(value) for value in row]) for number, row in enumerate(rows, start=1)]


def _text(value: object) -> str:
    """A cell as text: nothing for null and NaN; whole numbers, which become floating beside nulls, without a point."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
