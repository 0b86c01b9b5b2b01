"""Do the report's intervals cover, and do its tests err no more often than they say? On data whose truth is known.

    python benchmarks/simulation.py [--repetitions 4000] [--json benchmarks/simulation.json]

Patients have one to three cases and a difficulty of their own; values are skewed as Dice is, most near 0.8, and cases may be
missed (0). Every study draws everything anew. Three questions, each answered for what the report does and for its rivals:

coverage   how often the 95 % interval of the mean holds the true mean
errors     how often Holm's family finds a difference between eight losses of the same mean (family-wise error), and how often a
           row is called worse than the best; and how often a true difference is found (power)
friedman   how often Friedman's test finds a difference between six losses that are alike

Columns of a batch share resamples, which leaves the shares as they are and only their own error a little larger.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import scipy.stats
from rich.console import Console
from rich.table import Table

from calf.report.friedman import chi_square, permutation_p
from calf.report.resampling import LEVEL, clustered_interval, holm, max_t_p, resamples, sign_flip_p
from calf.report.units import Floats, Indices, nanratio, patient_sums

BATCH = 100
NUM_BOOTSTRAP = 1000
NUM_FLIPS = 2000
LOSSES = 8
TRADED = 0.06  # of the cases, which a loss of the scenario "trade" misses more, and makes up for in the others
Draw = Callable[[np.random.Generator, int, int], tuple[Floats, Indices]]  # patients, columns -> values (U, K), patient (U,)


def dice(rng: np.random.Generator, patient: Indices, columns: int, own: float = 0.6) -> tuple[Floats, Floats]:
    """Dice-like values (U, K), and how hard each is on the scale of logits; columns are independent studies."""
    number = int(patient.max()) + 1
    hard = 1.6 + rng.normal(0, 0.8, (number, columns))[patient] + rng.normal(0, own, (len(patient), columns))
    return scipy.special.expit(hard), hard


def patients_of(rng: np.random.Generator, number: int) -> Indices:
    return np.repeat(np.arange(number), rng.integers(1, 4, number))


def skewed(rng: np.random.Generator, number: int, columns: int) -> tuple[Floats, Indices]:
    patient = patients_of(rng, number)
    return dice(rng, patient, columns)[0], patient


def missed(share: float) -> Draw:
    def draw(rng: np.random.Generator, number: int, columns: int) -> tuple[Floats, Indices]:
        values, patient = skewed(rng, number, columns)
        return np.where(rng.random(values.shape) < share, 0, values), patient

    return draw


def hard_missed(rng: np.random.Generator, number: int, columns: int) -> tuple[Floats, Indices]:
    patient = patients_of(rng, number)
    values, hard = dice(rng, patient, columns)
    return np.where(hard < 0.1, 0, values), patient


def distances(rng: np.random.Generator, number: int, columns: int) -> tuple[Floats, Indices]:
    """HD95 in mm: log-normal, and the diagonal of the image where a case is missed."""
    patient = patients_of(rng, number)
    found = np.exp(dice(rng, patient, columns)[1])
    return np.where(rng.random(found.shape) < 0.03, 300, found), patient


COVERAGE: dict[str, Draw] = {
    "skewed": skewed,
    "8 % missed": missed(0.08),
    "30 % missed": missed(0.3),
    "hard cases missed": hard_missed,
    "HD95, 3 % missed": distances,
}


def percentile_and_bca(values: Floats, patient: Indices, seed: int) -> dict[str, tuple[Floats, Floats]]:
    sums, counts = patient_sums(values, patient)
    mean = sums.sum(0) / counts.sum(0)
    drawn = np.concatenate([weights @ sums / (weights @ counts) for weights in resamples(len(sums), NUM_BOOTSTRAP, seed)])
    without = (sums.sum(0) - sums) / (counts.sum(0) - counts)
    skew = without.mean(0) - without
    acceleration = (skew**3).sum(0) / (6 * (skew**2).sum(0) ** 1.5)
    bias = scipy.stats.norm.ppf(((drawn < mean).mean(0) + (drawn <= mean).mean(0)) / 2)
    shifted = bias + scipy.stats.norm.ppf([LEVEL / 2, 1 - LEVEL / 2])[:, None]
    shares = scipy.stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    ordered = np.sort(drawn, axis=0)
    low, high = np.take_along_axis(ordered, np.clip(np.rint(shares * (NUM_BOOTSTRAP - 1)).astype(int), 0, None), axis=0)
    plain = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    return {"percentile": (plain[0], plain[1]), "BCa": (low, high)}


@cache
def truth(draw: Draw) -> float:
    """The mean over cases, to 1 or 2 hundredths of the standard error of a study of 50 patients."""
    return float(draw(np.random.default_rng(10**6), 500_000, 1)[0].mean())


def coverage(draw: Draw, number: int, repetitions: int, seed: int = 0) -> dict[str, float]:
    """Share of studies whose interval holds the true mean, and the median width, by kind of interval."""
    held: dict[str, list[Floats]] = {}
    wide: dict[str, list[Floats]] = {}
    for batch in range(max(1, repetitions // BATCH)):
        values, patient = draw(np.random.default_rng([seed, number, batch]), number, BATCH)
        intervals = {"bootstrap-t": clustered_interval(values, patient, NUM_BOOTSTRAP, batch)}
        for kind, (low, high) in (intervals | percentile_and_bca(values, patient, batch)).items():
            held.setdefault(kind, []).append((low <= truth(draw)) & (truth(draw) <= high))
            wide.setdefault(kind, []).append(high - low)
    shares = {kind: float(np.mean(hits)) for kind, hits in held.items()}
    return shares | {f"{kind}, width": float(np.median(widths)) for kind, widths in wide.items()}


def alike(rng: np.random.Generator, patient: Indices, kind: str) -> Floats:
    """(U, LOSSES) of losses with the same mean: only ``trade`` and ``spread`` have losses that could not be exchanged."""
    shape = (len(patient), LOSSES)
    number = int(patient.max()) + 1
    hard = 1.6 + rng.normal(0, 0.8, (number, 1))[patient] + rng.normal(0, 0.5, (len(patient), 1))
    values = scipy.special.expit(hard + rng.normal(0, 0.25, (number, LOSSES))[patient] + rng.normal(0, 0.25, shape))
    if kind == "5 % missed":
        return np.where(rng.random(shape) < 0.05, 0, values)
    if kind == "hard cases missed":
        return np.where(hard + rng.normal(0, 0.3, shape) < 0.1, 0, values)
    if kind == "trade":
        values[:, 1::2] = np.where(rng.random((len(patient), LOSSES // 2)) < TRADED, 0, values[:, 1::2] / (1 - TRADED))
    if kind == "spread":
        values[:, 1::2] += rng.normal(0, 0.1, (len(patient), LOSSES // 2))
    return values


def errors(kind: str, number: int, repetitions: int, shift: float = 0.0, seed: int = 0) -> dict[str, float]:
    """Shares of studies with a finding; with a ``shift`` of the last loss, shares in which it is found to differ."""
    first, second = np.triu_indices(LOSSES, 1)
    found: dict[str, list[bool]] = {}
    for batch in range(max(1, repetitions // BATCH)):
        rng = np.random.default_rng([seed, number, batch])
        means = []
        for _ in range(BATCH):
            patient = patients_of(rng, number)
            values = alike(rng, patient, kind)
            values[:, -1] += shift
            means.append(nanratio(*patient_sums(values, patient)))
        table = np.stack(means)  # study, patient, loss
        differences = (table[:, :, first] - table[:, :, second]).transpose(1, 0, 2)
        flips = sign_flip_p(differences.reshape(number, -1), batch, NUM_FLIPS).reshape(BATCH, -1)
        baseline = first == 0
        signed = scipy.stats.wilcoxon(differences[:, :, baseline], axis=0, method="asymptotic").pvalue
        signed = np.nan_to_num(signed, nan=1)
        for study in range(BATCH):
            best = table[study].mean(0).argmax()
            with_best = (first == best) | (second == best)
            against = {"sign flips": holm(flips[study, baseline]), "Wilcoxon": holm(signed[study])}
            for name, p in against.items():
                found.setdefault(name, []).append(bool((p[-1:] if shift else p).min() <= LEVEL))
            together = max_t_p(differences[:, study], batch, NUM_FLIPS)
            worse = {
                "best, all pairs": together[with_best],
                "best, Holm of all pairs": holm(flips[study])[with_best],
                "best, its own pairs": holm(flips[study, with_best]),
            }
            for name, p in worse.items():
                found.setdefault(name, []).append(bool(p.min() <= LEVEL))
    return {name: float(np.mean(hits)) for name, hits in found.items()}


def friedman(number: int, repetitions: int, rows: int = 6, seed: int = 0) -> dict[str, float]:
    """Shares of studies without a difference in which each p is at most 0.05; F of blocks that all agree counts as 0."""
    rng, p = np.random.default_rng([seed, number]), []
    for _ in range(repetitions // 4):
        of = rng.permuted(np.tile(np.arange(1.0, rows + 1), (number, 1)), axis=1)
        statistic = float(chi_square(of.sum(0)[None], of)[0])
        rest = number * (rows - 1) - statistic
        f = (number - 1) * statistic / rest if rest > 1e-9 else np.inf
        of_f = scipy.stats.f.sf(f, rows - 1, (rows - 1) * (number - 1))
        p.append((scipy.stats.chi2.sf(statistic, rows - 1), of_f, permutation_p(of, statistic, int(rng.integers(2**31)))))
    shares = (np.array(p) <= LEVEL).mean(0)
    return dict(zip(("chi square", "Iman-Davenport", "permutation"), map(float, shares), strict=True))


def simulate(repetitions: int) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {"coverage": [], "errors": [], "power": [], "friedman": []}
    for name, draw in COVERAGE.items():
        for number in (10, 20, 50, 100):
            found["coverage"].append({"values": name, "patients": number} | coverage(draw, number, repetitions))
    for name in ("skewed", "5 % missed", "hard cases missed", "spread", "trade"):
        for number in (12, 20, 50):
            found["errors"].append({"values": name, "patients": number} | errors(name, number, repetitions))
    for name, shift in (("skewed", 0.03), ("hard cases missed", 0.03), ("5 % missed", 0.05)):
        found["power"].append({"values": name, "patients": 50, "shift": shift} | errors(name, 50, repetitions, shift))
    for number in (3, 5, 10, 50):
        found["friedman"].append({"blocks": number} | friedman(number, repetitions))
    return found


def show(console: Console, name: str, rows: list[dict[str, object]]) -> None:
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    found = simulate(options.repetitions)
    console = Console(width=150)
    for name, rows in found.items():
        show(console, name, rows)
    console.print(f"{options.repetitions} studies a row, {time.perf_counter() - started:.0f} s")
    if options.json:
        rounded = json.loads(json.dumps(found), parse_float=lambda text: round(float(text), 4))
        written = {"repetitions": options.repetitions, "losses": LOSSES, "level": LEVEL} | rounded
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
