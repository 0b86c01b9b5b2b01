"""One case as a set of runs saw it: images, truth, predictions and probabilities, in RAS order on one grid.

:class:`Cases` opens a case; what it has read is kept up to a number of bytes, shared by all who ask. Reading takes up to seconds
a file, so it belongs in a thread (FastAPI's ``def`` routes, NiceGUI's ``run.io_bound``); :meth:`OpenCase.load` reads several
files at once. What cannot be shown raises :class:`calf.report.volumes.Unreadable`, whose message is a sentence for the user, and
costs nothing else: each image, mask and probability map fails alone. An id or name that is not there raises ``Unknown``.

Axes go to the patient's right, front and head; an image of one slice has Z = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calf.data.grid import Grid, same_grid
from calf.data.volumes import VolumeError, read_header
from calf.metrics.scores import PARTLY_LABELLED
from calf.report.volumes import Unreadable
from calf.ui.cache import Cache
from calf.ui.files import CaseFiles, exists, inside, read_codes, read_steps, stamp, told
from calf.ui.library import Unknown
from calf.ui.regions import Cropped, Region, values
from calf.ui.runs import Run
from calf.ui.scan import Scan

LIMIT_BYTES = 2**30
THREADS = 4
ORIGINAL_GRID = "original grid"

T = TypeVar("T")


@dataclass(frozen=True)
class _Failed:
    """Kept in place of what could not be read, so that it is not tried again for every slice."""

    why: str


class Source(Protocol):
    """What cases are opened of: a :class:`calf.ui.library.Library`, whose methods say what these do, or an image of one's own
    (:class:`calf.ui.own_case.OwnCase`).
    """

    def chosen(self, ids: Sequence[str]) -> list[Run]: ...

    def case(self, id: str, runs: Sequence[str]) -> str: ...

    def data(self, id: str) -> dict[str, Any]: ...

    def table(self, id: str) -> pd.DataFrame: ...

    def case_rows(self, id: str) -> pd.DataFrame: ...


class Cases:
    """Opens cases of a library's runs; about ``limit_bytes`` of voxels are kept."""

    def __init__(self, library: Source, limit_bytes: int = LIMIT_BYTES) -> None:
        self.library = library
        self.cache = Cache(limit_bytes)

    def open(self, case_id: str, run_ids: Sequence[str]) -> OpenCase:
        """The case of this id with these runs; reads no voxels.

        Raises:
            Unknown: there is no such case or run, or none was given.
            Unreadable: none of the runs says where the case's files lie.
        """
        if not run_ids:
            raise Unknown("no run was chosen: choose at least one")
        runs = self.library.chosen(run_ids)
        return OpenCase(self, self.library.case(case_id, [run.id for run in runs]), case_id, runs)


class OpenCase:
    """One case of several runs.

    Attributes:
        case, id: its name and its id.
        runs: by id, in the order they were chosen.
        problems: for each run that cannot be shown at all, why.
        files: where the case lies, as the first run says whose mask is still there.
    """

    def __init__(self, cases: Cases, case: str, id: str, runs: Sequence[Run]) -> None:
        self.case, self.id = case, id
        self.runs = {run.id: run for run in runs}
        self._cases = cases
        self._targets: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, str] = {}
        found: dict[str, CaseFiles] = {}
        for run in runs:
            try:
                data = cases.library.data(run.id)
                found[run.id] = CaseFiles.of(data, case)
                self._targets[run.id] = data["target"]
            except ValueError as reason:
                self.problems[run.id] = str(reason)
            except (KeyError, TypeError, AttributeError):
                self.problems[run.id] = "its data.json does not say where this case lies"
        if not found:
            raise Unreadable("; ".join(dict.fromkeys(self.problems.values())))
        self._annotated = {run: files.annotated for run, files in found.items()}
        self.files = next((own for own in found.values() if own.mask and exists(own.mask)), next(iter(found.values())))

    @property
    def names(self) -> list[str]:
        """The names of the runs' targets, those of the first run first."""
        return list(dict.fromkeys(name for target in self._targets.values() for name in target["names"]))

    @property
    def modalities(self) -> list[str]:
        """The images that the case has."""
        return list(self.files.images)

    @cached_property
    def grid(self) -> Grid:
        """The grid of the truth; where that cannot be read of an image, or of a prediction.

        Raises:
            Unreadable: no file of the case can be read.
        """
        sources: list[Callable[[], Grid]] = [lambda: self._truth()[1]]
        sources += [partial(read_header, image.path) for image in self.files.images.values()]
        sources += [partial(self._grid_of_prediction, run) for run in self._targets]
        why = []
        for source in sources:
            try:
                return source()
            except (OSError, ValueError) as reason:  # includes Unreadable and VolumeError
                why.append(told(reason, self.files.paths))
        raise Unreadable("no file of this case can be read: " + "; ".join(dict.fromkeys(why)))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.grid.ras_shape

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        return self.grid.spacing_mm

    @property
    def voxel_mm3(self) -> float:
        return math.prod(self.spacing_mm)  # as the rows of cases.csv are made

    def labels_of(self, run: str, name: str) -> tuple[int, ...]:
        """The label values that make this name in this run; :class:`Unreadable` where the run has no such name."""
        self._owner(name)
        if run in self.problems:
            raise Unreadable(self.problems[run])
        target = self._targets[run]
        if name not in target["names"]:
            raise Unreadable(f"it segments {', '.join(target['names'])}, not {name}")
        return tuple(sorted(int(value) for value in target["labels"][target["names"].index(name)]))

    def scan(self, modality: str) -> Scan:
        """An image of the case; :class:`Unreadable` where it was moved, is damaged, or lies on another grid than the masks."""
        if modality not in self.files.images:
            raise Unknown(f"the case has no image of this name; it has {', '.join(self.modalities)}")
        key = "scan", self.files.scan_key(modality)
        found, grid = self.cached(key, partial(self.files.read_scan, modality), lambda kept: int(kept[0].values.nbytes))
        if not same_grid(grid, self.grid):
            raise Unreadable("its image lies on another grid than its masks")
        return found

    def truth(self, name: str) -> Region:
        """The truth of this target name, as the first run that has it defines it; :class:`Unreadable` where there is none."""
        labels, grid = self._truth()
        self._check_grid(grid)
        wanted = self.labels_of(self._owner(name), name)
        return Region(labels, values(*wanted), ("truth", self.files.mask_key, wanted))

    def prediction(self, run: str, name: str, threshold: int | None = None) -> Region:
        """What a run took for ``name``; with a ``threshold`` (1 ... 255) where its probability is at least threshold / 255.

        :class:`Unreadable` where it was not saved, is damaged, lies on another grid, or is of other labels than those that the
        first run with this name calls so.
        """
        if threshold is not None:
            steps = self.probability(run, name)
            return Region(steps, np.arange(256) >= max(threshold, 1), (*self._steps_key(run, name), threshold))
        self._check_name(run, name)
        codes, grid = self._codes(run)
        self._check_grid(grid)
        target = self._targets[run]
        place = target["names"].index(name)
        chosen = values(place + 1) if target["exclusive"] else np.arange(256) >> place & 1 == 1
        return Region(codes, chosen, ("prediction", stamp(self._codes_path(run)), place, target["exclusive"]))

    def probability(self, run: str, name: str) -> Cropped:
        """The probability of ``name`` in steps of 1/255; :class:`Unreadable` as :meth:`prediction`."""
        self._check_name(run, name)
        steps, grid = self.cached(self._steps_key(run, name), lambda: read_steps(self._steps_path(run, name)), _size)
        self._check_grid(grid)
        return steps

    def has_probabilities(self, run: str) -> bool:
        """Whether the run kept the probabilities of this case, of every name of its target."""
        names = self._targets[run]["names"] if run in self._targets else []
        folder = self.runs[run].folder / "probabilities"
        return bool(names) and all(inside(folder, f"{self.case}-{name}.nii.gz") for name in names)

    def annotated(self, run: str) -> NDArray[np.bool_]:
        """Bool (Z,): the axial slices that were scored in this run, all but those that nobody annotated.

        Raises:
            Unreadable: only some were, and the run does not say which.
        """
        if run in self.problems:
            raise Unreadable(self.problems[run])
        slices = self._annotated[run]
        if slices is None:
            if self._partly_labelled(run):
                raise Unreadable("only some of its slices were annotated, and its data.json, of an older run, does not say which")
            return np.ones(self.shape[2], bool)
        if max(slices, default=0) >= self.shape[2]:
            raise Unreadable(f"its data.json says that slice {max(slices)} was annotated: the case has {self.shape[2]}")
        return np.isin(np.arange(self.shape[2]), slices)

    def row(self, run: str, name: str) -> dict[str, Any] | None:
        """The row of this case and name in :meth:`calf.ui.library.Library.table`; None where it was not scored."""
        try:
            table = self._cases.library.table(run)
        except ValueError:
            return None
        own = table[(table["case"] == self.case) & (table["class"] == name)]
        return None if own.empty else {str(key): value for key, value in own.iloc[0].items()}

    def warning(self, run: str, name: str) -> str:
        """What must stand beside the prediction that is shown, that the numbers of cases.csv are not of these masks; else ""."""
        row = self.row(run, name)
        if row is None:
            return "cases.csv has no row of it"
        if (scored_on := self.runs[run].scored_on) not in (None, ORIGINAL_GRID):
            return f"the numbers of cases.csv are of {scored_on}, not of the masks shown"
        if self._annotated.get(run) is not None or self._partly_labelled(run):
            return "only the annotated slices are scored"
        odd = []
        for what, read, scored in (
            ("truth", self.truth, row["reference_volume_mm3"]),
            ("prediction", partial(self.prediction, run), row["predicted_volume_mm3"]),
        ):
            with suppress(Unreadable):
                shown = read(name).count() * self.voxel_mm3
                if abs(shown - scored) > 0.5 * self.voxel_mm3 + 1e-4 * scored:
                    odd.append(f"the {what} shown has {shown:.6g} mm3, that which was scored {scored:.6g} mm3")
        return "; ".join(odd)

    def load(self, modality: str | None = None, runs: Iterable[str] | None = None) -> None:
        """Read an image, the truth and the predictions of these runs (None: all), several files at once.

        What cannot be read raises when it is asked for, and not here.
        """
        jobs: list[Callable[[], Any]] = [self._truth]
        jobs += [partial(self._codes, run) for run in (self.runs if runs is None else runs)]
        jobs += [] if modality is None else [partial(self.scan, modality)]

        def tried(job: Callable[[], Any]) -> None:
            with suppress(Unreadable, Unknown):
                job()

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(tried, jobs))

    def cached(self, key: Hashable, make: Callable[[], T], size_bytes: Callable[[T], int]) -> T:
        """What ``make`` gave for this key, kept beside the voxels; raises :class:`Unreadable` for files that cannot be read."""

        def tried() -> T | _Failed:
            try:
                return make()
            except (VolumeError, OSError) as reason:
                return _Failed(told(reason, self._paths))

        kept = self._cases.cache.get(key, tried, lambda kept: 1000 if isinstance(kept, _Failed) else size_bytes(kept))
        if isinstance(kept, _Failed):
            raise Unreadable(kept.why)
        return kept

    @property
    def _paths(self) -> list[Path]:
        """Of all files that are read for the case."""
        folders = [run.folder.resolve() for run in self.runs.values()]
        return [*self.files.paths, *(folder / name for folder in folders for name in ("predictions", "probabilities"))]

    def _partly_labelled(self, run: str) -> bool:
        """Whether its case rows say so."""
        try:
            rows = self._cases.library.case_rows(run)
        except ValueError:
            return False
        return bool(((rows["case"] == self.case) & (rows["status"] == PARTLY_LABELLED)).any())

    def _truth(self) -> tuple[Cropped, Grid]:
        return self.cached(("labels", self.files.mask_key), self.files.read_truth, _size)

    def _codes(self, run: str) -> tuple[Cropped, Grid]:
        path = self._codes_path(run)
        return self.cached(("codes", stamp(path)), lambda: read_codes(path), _size)

    def _grid_of_prediction(self, run: str) -> Grid:
        return self._codes(run)[1]

    def _owner(self, name: str) -> str:
        """The first run that has this name."""
        for run, target in self._targets.items():
            if name in target["names"]:
                return run
        raise Unknown(f"there is no target of this name; there are {', '.join(self.names)}")

    def _check_name(self, run: str, name: str) -> None:
        if self.labels_of(run, name) != self.labels_of(owner := self._owner(name), name):
            raise Unreadable(f"what it calls {name} is made of other labels than in {self.runs[owner].label}")

    def _check_grid(self, grid: Grid) -> None:
        if grid is not self.grid and not same_grid(grid, self.grid):
            own, other = (" x ".join(map(str, shape)) for shape in (grid.ras_shape, self.shape))
            raise Unreadable(f"it lies on another grid: {own} voxels, the case has {other}, or they lie elsewhere")

    def _codes_path(self, run: str) -> Path:
        return self._file(run, "predictions", f"{self.case}.nii.gz", "its prediction was not saved")

    def _steps_path(self, run: str, name: str) -> Path:
        return self._file(run, "probabilities", f"{self.case}-{name}.nii.gz", "its probabilities were not saved")

    def _steps_key(self, run: str, name: str) -> tuple[Any, ...]:
        return "probability", stamp(self._steps_path(run, name))

    def _file(self, run: str, folder: str, name: str, missing: str) -> Path:
        if run in self.problems:
            raise Unreadable(self.problems[run])
        path = inside(self.runs[run].folder / folder, name)
        if path is None:
            raise Unreadable(missing)
        return path


def _size(kept: tuple[Cropped, Grid]) -> int:
    return kept[0].nbytes
