"""Which rows of a table are marked: the best mean, and those that a test cannot tell from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calf.metrics.scores import LOWER_IS_BETTER, UNRANKED
from calf.report.resampling import LEVEL, least_p, max_t_p
from calf.report.units import Floats, Indices, Scores, nanmean

ELSEWHERE = "made on another split or other prepared data than most rows: not compared with the best"
ALONE = "no other row was made on its split and prepared data: not compared with the best"
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Marks:
    """``marked``: (R,), the rows to be marked. ``means_alone``: why the best mean alone or nothing, "" where rows were tested.

    ``notes``: for each row why it can be neither the best nor equal to it, "" where it can.
    """

    marked: Flags
    means_alone: str
    notes: tuple[str, ...]


def candidates(scores: Scores) -> tuple[Flags, tuple[str, ...]]:
    """(R,): the rows that may be the best, and for the others why not.

    Those that were made on the same data and split as most, and that have a value in every case in which any of these has
    one: a mean over fewer cases is another number. Where that leaves a row alone beside others, it is the best of nothing.
    """
    alike = scores.comparable()
    defined = ~np.isnan(scores.means())
    scored = int(defined[:, alike].any(1).sum())
    own = defined.sum(0)
    may = alike & (own == scored) & (scored > 0)
    if scored == 0:
        return may, ("",) * len(may)
    if alike.sum() == 1 and len(alike) > 1:
        return np.zeros_like(may), tuple(ALONE if same else ELSEWHERE for same in alike)
    fewer = [f"scored in {number} of {scored} cases: not compared with the best" for number in own]
    whole = ("" if good else ELSEWHERE if not same else said for good, same, said in zip(may, alike, fewer, strict=True))
    return may, tuple(whole)


def mark(scores: Scores, metric: str, tested: bool, seed: int = 0) -> Marks:
    """The best mean of the ``candidates``, and all that are not significantly worse.

    As the best is picked by the same data, the family is every pair of candidates, in both directions
    (:func:`calf.report.resampling.max_t_p`). Of eight losses that could be exchanged some is called worse in 3 to 6 of 100
    tables of 12 to 50 patients; where some miss 6 % of the lesions and outline the others better, to the same mean, in 40 at 12
    and 17 at 50, since flips of signs take differences to be symmetric (``benchmarks/simulation.json``). A row that cannot be
    tested against the best, for want of patients, is not to look worse than it: then only the best mean is marked; where a row
    has no case, seed and split in common with it, nothing is. ``means_alone`` says so.

    Args:
        scores: of one table.
        metric: its name; one of ``UNRANKED`` has no best.
        tested: if not, only the best mean is marked, without a word.
        seed: of the patterns of signs.
    """
    nobody = np.zeros(len(scores.rows), bool)
    if metric in UNRANKED:
        return Marks(nobody, "", ("",) * len(nobody))
    may, notes = candidates(scores)
    if not may.any():
        return Marks(nobody, "", notes)
    means = np.where(may, nanmean(scores.means(), axis=0), np.nan)
    best = int(np.nanargmin(means) if metric in LOWER_IS_BETTER else np.nanargmax(means))
    alike = may & np.isclose(means, means[best], rtol=1e-12, atol=0)
    if not tested or scores.pooled:
        return Marks(alike, "", notes)
    places = np.flatnonzero(may)
    p, num_patients = _of_pairs(scores, places, seed)
    own = places.searchsorted(best)
    others = places != best
    lacking = others & (np.isnan(p[own]) | (least_p(num_patients[own]) > LEVEL))
    if (strange := others & (num_patients[own] < 1)).any():
        return Marks(nobody, _cannot(scores, places[strange], num_patients[own, strange]), notes)
    if lacking.any():
        return Marks(alike, _cannot(scores, places[lacking], num_patients[own, lacking]), notes)
    alike[places] |= others & (p[own] > LEVEL)
    return Marks(alike, "", notes)


def _cannot(scores: Scores, places: Indices, num_patients: Indices) -> str:
    """Why these rows cannot be tested against the best."""
    named = ", ".join(f"{model} / {loss}" for model, loss in (scores.rows[place] for place in places[:3]))
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    if num_patients.max() < 1:  # of other cases, seeds or splits: which mean is the best says nothing
        return f"nothing is marked, since {named}{more} has no case and seed in common with the best mean"
    if num_patients.min() == num_patients.max():
        number = int(num_patients[0])
        why = f"has {number} patient{'' if number == 1 else 's'} in common with it, too few for any difference to be significant"
    else:
        why = f"has {num_patients.min()} to {num_patients.max()} patients in common with it, too few to be significant"
    return f"only the best mean is marked, since {named}{more} {why}"


def _of_pairs(scores: Scores, places: Indices, seed: int) -> tuple[Floats, Indices]:
    """Of every pair of these rows its adjusted p, NaN without a common case and seed, and its number of patients: (K, K)."""
    number = len(places)
    p, num_patients = np.full((number, number), np.nan), np.zeros((number, number), np.int64)
    first, second = np.triu_indices(number, 1)
    size = max(1, 5_000_000 // max(scores.values[:, :, 0].size, 1))  # pairs whose differences are held at a time
    parts = [
        scores.of_patients(scores.differences(places[first[start : start + size]], places[second[start : start + size]]))
        for start in range(0, len(first), size)
    ]
    if parts:
        differences = np.concatenate(parts, axis=1)
        p[first, second] = p[second, first] = max_t_p(differences, seed)
        num_patients[first, second] = num_patients[second, first] = (~np.isnan(differences)).sum(0)
    return p, num_patients
