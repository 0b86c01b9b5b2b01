"""What has to be said under the tables, once, for every form in which they are written."""

from __future__ import annotations

from calf.metrics.scores import EMPTY_RULE, POOLED_RULE, UNRANKED
from calf.report.findings import Block, Findings
from calf.report.grids import heading, ranked_by

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
    "In bold, for each metric: the best mean, and all that are not significantly worse (paired sign flips of patients, step-down "
    "max-T over all pairs of rows, 0.05)."
)
MARKED_UNTESTED = "In bold, for each metric: the best mean, the lowest where lower is better."
TEST = (
    "95 % CI: bootstrap-t, 10,000 draws of patients with all their cases. Difference: to the baseline with the same network, "
    "paired by case and seed. p: two-sided sign-flip test of patients' mean differences, exact up to 16 patients; Holm over all "
    "comparisons with a baseline in the table. Bold comes from another test, max-T over all pairs, which knows how the rows hang "
    "together and may tell two apart that Holm does not. Effect: matched-pairs rank-biserial correlation. SD over seeds: of the "
    "mean over the cases that every seed scored; intervals and tests are of the seeds that were run. Only the declared metric "
    "was chosen in advance: marks in the other columns describe."
)

SUPPLEMENTARY = (
    "Supplementary tables: nothing is tested in them; in bold, for each metric, the best mean, the lowest where lower is better, "
    "of the rows that were scored in all cases in which any was."
)
FRIEDMAN = (
    "Friedman's test of {metric}: do the rows (models and losses) differ at all? A block ranks all rows: a data set, with the "
    "mean over its classes, or a patient; data sets that share patients are one block. Chi square corrected for ties; F and its "
    "p: Iman and Davenport, not defined where all blocks agree; last p: ranks shuffled within blocks, valid for few blocks too. "
    "Pairs that differ: by mean ranks, Holm over all pairs, 0.05. Only blocks and seeds in which every row has a value count; "
    "every pair is in friedman.csv."
)
FEWER = "scored in fewer cases than others"
SIGNED = (
    "Volume difference: predicted minus reference volume, in all cases; a mean near 0 says that too much and too little balance, "
    "not that volumes are right (see the relative volume error, which has no sign)."
)
BRATS = (
    "Sensitivity to the empty rule: a case without reference scores 1 where the prediction is empty too, and 0 where it is not, "
    "as in the BraTS challenges (arXiv 2011.00848); a miss is 0 in either table. HD95 is left out: BraTS sets it to the diagonal "
    "of its own images."
)
NO_EMPTY_REFERENCE = "Every case has a reference, so the rule of BraTS for empty masks (1 or 0) gives the same numbers."
OTHER_ORDER = "cases ranked first"


def strata(baseline: str, num_tests: int) -> str:
    """What was tested within strata, and over which family."""
    if not num_tests:
        return "Nothing is tested within strata."
    return (
        f"Each stratum by itself: paired sign-flip test against {baseline} with the same network, Holm over all {num_tests} "
        "comparisons of all strata as one family, apart from that of the whole table."
    )


def agreement(num_rows: int, per_case: bool) -> str:
    """How the table of Kendall's tau is read."""
    said = (
        f"Kendall's tau-b between two rankings of {num_rows} rows (models and losses): 1 the same order, 0 no relation, -1 "
        "the reverse. Where it is low, which loss is best depends on the metric. It is of the means as they are: rows that "
        "differ by chance alone lower it."
    )
    last = " Last column: between the ranking of means, which the tables show, and that of the mean ranks within cases."
    return said + (last if per_case else "")


def too_few_rows(num_rows: int) -> str:
    """Why there is no tau."""
    return f"Kendall's tau between rankings is not given: it takes three models and losses, here are {num_rows}."


def lead(found: Findings) -> str:
    """What the tables compare, in a sentence."""
    baselines = sorted({block.baseline for block in found.blocks if block.baseline is not None})
    if not baselines:
        return f"Declared metric: {heading(found.metric)}. Nothing is tested: that takes two losses and tables of patients."
    return f"Declared metric: {heading(found.metric)}. Baseline: {', '.join(baselines)}."


def marked(block: Block) -> str:
    """What bold says in the tables of this block, where it says less than usual, and which rows can have none."""
    said = [MARKED_TESTED if block.baseline is not None else MARKED_UNTESTED]
    for metrics, why in _shared({heading(metric): _alone(block, metric) for metric in block.main_metrics}):
        said.append(f"{', '.join(metrics)}: {why}.")
    of: dict[str, dict[str, list[str]]] = {}
    for metric, rows in block.apart.items():
        for (model, loss), note in rows.items():
            why = FEWER if note.startswith("scored") else note.partition(":")[0]
            of.setdefault(why, {}).setdefault(f"{model} / {loss}", []).append(heading(metric))
    for why, lacking in of.items():
        told = [
            f"{', '.join(rows)} ({metrics})" for rows, metrics in _shared({row: ", ".join(of) for row, of in lacking.items()})
        ]
        said.append(f"Neither the best nor equal to it, since {why}: {'; '.join(told)}.")
    return " ".join(said)


def _alone(block: Block, metric: str) -> str:
    """Why in a metric the best mean alone is marked where other metrics are tested."""
    if block.baseline is None or metric in UNRANKED:
        return ""
    lines = block.comparison(metric)
    if lines and not any(loss == block.baseline for _, loss in lines):
        return f"nothing is tested, and only the best mean is marked, since no run of {block.baseline} has it"
    return next((str(line["means_alone"]) for line in lines.values()), "")


def _shared(of: dict[str, str]) -> list[tuple[list[str], str]]:
    """Names by what is said of them, without those of which nothing is."""
    found: dict[str, list[str]] = {}
    for name, said in of.items():
        if said:
            found.setdefault(said, []).append(name)
    return [(names, said) for said, names in found.items()]


def friedman(found: Findings) -> str:
    """How Friedman's tests are read, and on what they rest where that is not all that was scored."""
    said = [
        f"Over {', '.join(tests)}: {note}." for tests, note in _shared({ranked_by(test): test.note for test in found.friedman})
    ]
    return " ".join([FRIEDMAN.format(metric=heading(found.metric)), *said])


def caveats(block: Block) -> list[str]:
    """What the statistics say of the number of patients, and of rows whose numbers rest on less than the others'."""
    own = block.comparison(block.metric)
    power = sorted({line["power_note"] for line in own.values()})
    said = [note for note in power if note and not any(other != note and other.startswith(note) for other in power)]
    of: dict[str, list[str]] = {}
    for (model, loss), line in own.items():
        for note in line["note"].split("; "):
            of.setdefault(note, []).append(f"{model} / {loss}")
    # what keeps rows from being marked is said of all metrics, by ``marked``
    told = ("", "baseline", *(why for rows in block.apart.values() for why in rows.values()))
    said += [f"{', '.join(rows)}: {note}" for note, rows in of.items() if note not in told]
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
