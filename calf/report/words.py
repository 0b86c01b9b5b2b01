"""What has to be said under the tables, once, for every form in which they are written."""

from __future__ import annotations

from calf.metrics.scores import EMPTY_RULE, POOLED_RULE
from calf.report.findings import Block, Findings
from calf.report.grids import heading

PER_CASE = (
    "The unit is the case: a score is of all voxels of a case, averaged over seeds within the case, then over cases. "
    f"{EMPTY_RULE} Missed, false positive (FP) and true negative (TN) cases are given out of all cases x seeds."
)
POOLED = (
    "The unit is a batch of shuffled slices, as the CALF authors score (arXiv 2504.04458): such a number is of no image and no "
    f"patient, cannot be compared with `per_case` tables, and is not tested. {POOLED_RULE}"
)
IMBALANCE = (
    "Where the foreground is small, specificity near 1 and MAE near 0 (accuracy near 1) are the same for every method: they tell "
    "methods apart only when one of them fails altogether."
)
SCORES = "Mean ± SD over cases (batches)."
MARKED_TESTED = (
    "In bold, for each metric: the best mean, and all that are not significantly worse (paired test, Holm over all pairs of "
    "rows, 0.05)."
)
MARKED_UNTESTED = "In bold, for each metric: the best mean, the lowest where lower is better."
TEST = (
    "95 % CI: bootstrap-t, 10,000 draws of patients with all their cases. Difference: to the baseline with the same network, "
    "paired by case and seed. p: two-sided sign-flip test of patients' mean differences, exact up to 16 patients; Holm over all "
    "comparisons with a baseline in the table. Effect: matched-pairs rank-biserial correlation. SD over seeds: of the mean over "
    "cases; intervals and tests are of the seeds that were run. Only the declared metric was chosen in advance: marks in the "
    "other columns describe."
)


def lead(found: Findings) -> str:
    """What the tables compare, in a sentence."""
    baselines = sorted({block.baseline for block in found.blocks if block.baseline is not None})
    if not baselines:
        return f"Declared metric: {heading(found.metric)}. Nothing is tested: that takes two losses and tables of patients."
    return f"Declared metric: {heading(found.metric)}. Baseline: {', '.join(baselines)}."


def marked(block: Block) -> str:
    """What bold says in the table of this block."""
    return MARKED_TESTED if block.baseline is not None else MARKED_UNTESTED


def caveats(block: Block) -> list[str]:
    """What the statistics say of the number of patients, and of rows whose numbers rest on less than the others'."""
    own = block.comparison(block.metric)
    power = sorted({line["power_note"] for line in own.values()})
    said = [note for note in power if note and not any(other != note and other.startswith(note) for other in power)]
    of: dict[str, list[str]] = {}
    for (model, loss), line in own.items():
        for note in line["note"].split("; "):
            of.setdefault(note, []).append(f"{model} / {loss}")
    said += [f"{', '.join(rows)}: {note}" for note, rows in of.items() if note not in ("", "baseline")]
    return [f"{'. '.join(said)}."] if said else []


def foot(found: Findings) -> list[str]:
    """Sentences for the end of the tables: the unit and empty rule of each protocol, the tests, and imbalance."""
    lines = [
        f"`{protocol}`: {PER_CASE if protocol == 'per_case' else POOLED}"
        for protocol in dict.fromkeys(block.protocol for block in found.blocks)
    ]
    if any(block.baseline is not None for block in found.blocks):
        lines.append(TEST)
    return [*lines, IMBALANCE] if lines else []
