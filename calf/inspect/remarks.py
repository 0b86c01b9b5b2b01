"""What the numbers of a fingerprint mean for the losses: sentences that follow from how the losses are documented to behave.

No sentence says which loss is best; each says what a number makes a loss do, and where that is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

NEARLY = 0.95  # of the batches in one branch, and CALF is nearly that branch
NOTABLE = 0.05  # a share worth a word
UNEQUAL = 1.2  # ratio of two lengths
FEW_PATIENTS = 10
SCALES = 10  # ratio of ranges of intensities that are not of one scale
CLDICE_ITERATIONS = 10
FORMULA = {
    "fisher": "its Fisher form, which falls without bound until the clamp",
    "logit": "its logit form, which falls without bound until the clamp and has the same gradient for every voxel",
    "arcsine": "its arcsine form, which is bounded and forgives badly wrong voxels",
    "ln": "bce: that branch is binary cross-entropy",
    "log10": "bce: that branch is binary cross-entropy / 2.3026, and Adam hardly notices a constant factor",
    "bce_dice": "BCE + soft Dice pooled over the batch, the sum that bce_dice is",
}


class Remark(NamedTuple):
    """A number in words, what it makes losses do, and where that is written."""

    says: str
    means: str
    basis: str


def remarks(found: dict[str, Any]) -> list[Remark]:
    """All that can be said of a fingerprint (see :mod:`calf.inspect.fingerprint`), the most telling first."""
    parts = (
        _branches,
        _empty,
        _rarity,
        _borders,
        _components,
        _absent,
        _thickness,
        _pixels,
        _padding,
        _intensities,
        _unlabelled,
        _split,
    )
    return [remark for part in parts for remark in part(found)]


def percent(share: float | None) -> str:
    """A share in per cent, never rounded to 0 or 100 unless it is.

    >>> percent(0.613), percent(0.0004), percent(0.9999), percent(1), percent(None)
    ('61 %', '0.04 %', '> 99.9 %', '100 %', '-')
    """
    if share is None:
        return "-"
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value >= 99.95:
        return "> 99.9 %"
    return f"{value:.2g} %" if value < 10 else f"{value:.1f} %" if value >= 99 else f"{value:.0f} %"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _at_batch_size(found: dict[str, Any]) -> dict[str, Any]:
    return next(batch for batch in found["batches"] if batch["size"] == found["batch_size"])


def _branches(found: dict[str, Any]) -> Iterator[Remark]:
    """One remark for each group of targets of which the same is to be said."""
    batch = _at_batch_size(found)
    said: dict[tuple[str, str], dict[str, str]] = {}
    for name, target in batch["targets"].items():
        what, taken, means = verdict(target["branches"])
        fixed = found["targets"][name]["training_slices"]["branch"]
        said.setdefault((what, f"{means} With loss.scope=dataset it is {fixed} throughout."), {})[name] = taken
    drawn = f"{batch['batches']} simulated batches of {found['batch_size']} ({found['simulated_from']})"
    alone = len(batch["targets"]) == 1
    for (what, means), names in said.items():
        listed = "; ".join(taken if alone else f"{taken} ({name})" for name, taken in names.items())
        yield Remark(f"{what}: it takes {listed}.", means, f"{drawn}, scope=batch, area=pixels; calf/losses/calf.py")


def verdict(shares: dict[str, float]) -> tuple[str, str, str]:
    """What CALF is, given how often it takes each branch; these shares in words; and what that means.

    >>> verdict({"ln": 0.3, "log10": 0.7})[:2]
    ('Here CALF is nearly bce', 'log10 in 70 % and ln in 30 % of batches')
    """
    taken = {branch: share for branch, share in sorted(shares.items(), key=lambda entry: -entry[1]) if share > 0}
    most, share = next(iter(taken.items()))
    listed = f"{_listed([f'{branch} in {percent(part)}' for branch, part in taken.items()])} of batches"
    log = shares.get("ln", 0.0) + shares.get("log10", 0.0)
    if share > NEARLY:
        return "Here CALF is nearly one formula", listed, f"It is nearly {FORMULA[most]}."
    if log > NEARLY:
        means = "ln is binary cross-entropy and log10 the same / 2.3026: bce, with a step that is now and then shorter."
        return "Here CALF is nearly bce", listed, means
    unbounded = shares.get("fisher", 0.0) + shares.get("logit", 0.0)
    means = f"In {percent(log)} of batches it is bce but for a constant factor (ln, log10)."
    if unbounded > NOTABLE:
        means += f" In {percent(unbounded)} it falls without bound until the clamp (Fisher, logit); its values are then negative."
    return "Here CALF mixes its formulas", listed, means


def _empty(found: dict[str, Any]) -> Iterator[Remark]:
    shares = {name: target["empty_share"] for name, target in found["targets"].items()}
    if max(shares.values()) == 0:
        return
    lacking = {name: target["without_foreground"] for name, target in _at_batch_size(found)["targets"].items()}
    pooled = _listed([f"{name} is absent from {percent(share)}" for name, share in lacking.items()])
    yield Remark(
        f"Of the slices {_listed([f'{percent(share)} show no {name}' for name, share in shares.items()])}.",
        "What an absent class costs a loss that counts by class is its option empty. smooth: the slice alone, where with a small "
        "smoothing term false positives cost nearly 1 however few they are, and teach next to nothing. skip: nothing, so that "
        f"false positives in it are free. batch: the batch is pooled first; of batches of {found['batch_size']} {pooled}. "
        "Defaults differ from loss to loss: compare losses at the same setting.",
        "calf/losses/contract.py, TverskyLoss in calf/losses/overlap.py",
    )


def _rarity(found: dict[str, Any]) -> Iterator[Remark]:
    ratio = found["background_to_foreground"]
    if ratio is None or ratio <= 1:
        return
    weights = []
    for name, target in found["targets"].items():
        if (weight := target["balanced_weight"]) is not None:
            bound = f", at its bound of 1000 in {percent(weight['above_1000'])} of them" if weight["above_1000"] else ""
            weights.append(f"{weight['p50']:.0f} in the median slice that shows {name}{bound}")
    yield Remark(
        f"For each pixel of foreground a loss sees {ratio:.0f} of background.",
        "focal's published alpha = 0.25 gives foreground a third of the background's weight. weighted_bce balances each slice: "
        f"the foreground's weight is {_listed(weights)}.",
        "conf/loss/focal.yaml, conf/loss/weighted_bce.yaml",
    )


def _borders(found: dict[str, Any]) -> Iterator[Remark]:
    shares = {name: target["empty_share"] for name, target in found["targets"].items()}
    megabytes = found["num_slices"] * len(shares) * found["pixels_of_a_slice"] * 2 / 1e6
    size = f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
    without = _listed([f"{percent(share)} ({name})" for name, share in shares.items()])
    yield Remark(
        f"Distance maps of all slices would take {size}.",
        f"In slices without a border, {without}, the distance term of boundary and dice_boundary is 0 and only their "
        "regional term teaches. With dataset.distance_maps=true the maps lie beside the store; without, boundary, dice_boundary, "
        "hausdorff_dt, dice_hausdorff and distance_penalized_ce compute them in every step.",
        "BoundaryLoss in calf/losses/distance.py, calf/data/distances.py",
    )


def _components(found: dict[str, Any]) -> Iterator[Remark]:
    several = {
        name: target for name, target in found["targets"].items() if target["components"]["number"] > target["present_in_cases"]
    }
    if not several:
        return
    counted, alone = [], []
    for name, target in several.items():
        parts, single = target["components"], target["components"]["single_voxel_share"]
        tiny = f", {percent(single)} of them single voxels" if single else ""
        most = f"at most {parts['per_case']['max']:.0f} in one{tiny}"
        counted.append(f"{name} has {parts['number']} connected components in {target['present_in_cases']} cases ({most})")
        alone.append(f"{dice(parts['dice_of_largest'])} ({name})")
    yield Remark(
        f"{_listed(counted)}.",
        f"Whoever finds the largest of each case exactly and none of the others scores a mean Dice of {_listed(alone)}: no more "
        "than the rest is left for Dice, and losses made of it, to tell. Single voxels may be lesions or slips of annotation.",
        "counted in the masks: voxels that share a face, an edge or a corner are connected",
    )


def dice(score: float | None) -> str:
    """A Dice to three digits, never rounded to 1 unless it is.

    >>> dice(0.99987), dice(1.0), dice(0.9136), dice(None)
    ('> 0.999', '1', '0.914', '-')
    """
    if score is None:
        return "-"
    return "1" if score == 1 else "> 0.999" if score >= 0.9995 else f"{score:.3f}"


def _absent(found: dict[str, Any]) -> Iterator[Remark]:
    lacking = {name: found["num_cases"] - target["present_in_cases"] for name, target in found["targets"].items()}
    listed = [f"{name} is absent from {number} of {found['num_cases']} cases" for name, number in lacking.items() if number]
    if listed:
        yield Remark(
            f"{_listed(listed)}.",
            "There no Dice is defined: a prediction counts as a false positive, none as a true negative.",
            "protocol per_case, README.md",
        )


def _thickness(found: dict[str, Any]) -> Iterator[Remark]:
    radii = {name: target["largest_radius_px"] for name, target in found["targets"].items()}
    if round(max(radii.values())) > CLDICE_ITERATIONS:
        listed = _listed([f"{radius:.1f} pixels ({name})" for name, radius in radii.items()])
        yield Remark(
            f"The largest radius within a slice is {listed}.",
            f"cldice, which is for tubes, thins in {CLDICE_ITERATIONS} iterations, which are to be at least the largest radius.",
            "conf/loss/cldice.yaml",
        )


def _pixels(found: dict[str, Any]) -> Iterator[Remark]:
    rows, columns = (found["pixel_mm"][axis] for axis in ("rows", "columns"))
    basis = "DistanceLoss in calf/losses/distance.py, conf/dataset/*.yaml"
    if max(axis["max"] / axis["min"] for axis in (rows, columns)) > UNEQUAL:
        sizes = f"{min(rows['min'], columns['min']):.2f} to {max(rows['max'], columns['max']):.2f}"
        yield Remark(
            f"Stored pixels are {sizes} mm wide.",
            "Losses of distances count pixels, which are not of one length in all cases. preparation.spacing_mm makes them so.",
            basis,
        )
    elif max(rows["p50"] / columns["p50"], columns["p50"] / rows["p50"]) > UNEQUAL:
        yield Remark(
            f"Stored pixels are {rows['p50']:.2f} x {columns['p50']:.2f} mm (between rows, between columns).",
            "Losses of distances count pixels, which are not of one length in both directions. Their spacing, or "
            "preparation.spacing_mm, makes them so.",
            basis,
        )


def _padding(found: dict[str, Any]) -> Iterator[Remark]:
    if found["padding_share"] > NOTABLE:
        yield Remark(
            f"{percent(found['padding_share'])} of the stored pixels are padding.",
            "A loss sees it as background; no score counts it.",
            "calf/data/datamodule.py",
        )


def _intensities(found: dict[str, Any]) -> Iterator[Remark]:
    for modality in found["modalities"]:
        levels = [case["intensities"][modality] for case in found["cases"]]
        spans = [level["p99.5"] - level["p0.5"] for level in levels if level["p50"] is not None]
        if min(spans, default=0) > 0 and (ratio := max(spans) / min(spans)) > SCALES:
            yield Remark(
                f"Between cases the range of {modality}'s intensities (0.5 % to 99.5 %) differs by a factor of {ratio:.0f}.",
                "normalise=window maps the same two intensities in all cases; the others scale each volume, or slice, by itself.",
                "calf/data/prepare.py",
            )


def _unlabelled(found: dict[str, Any]) -> Iterator[Remark]:
    if number := found["num_unlabelled_slices"]:
        yield Remark(
            f"{number} of {found['num_slices']} slices are unlabelled.",
            "Nothing is learnt from them and nothing is scored on them. Shares here are of the other slices; volumes and "
            "components of these cases are those of the annotated slices alone.",
            "partly_labelled in calf/data/cases.py",
        )


def _split(found: dict[str, Any]) -> Iterator[Remark]:
    if found["split"] is None:
        return
    if (patients := found["split"]["test"]["patients"]) < FEW_PATIENTS:
        yield Remark(
            f"The test part has {patients} patient{'s' if patients > 1 else ''}.",
            "That is enough to see whether a network works, not to rank losses.",
            "README.md; experiments/brats2013_pilot, where one of five patients moves the mean by more than the losses differ",
        )
    for name in found["targets"]:
        train, test = (found["split"][part]["targets"][name]["volume_mm3"]["p50"] for part in ("train", "test"))
        if train and test and not 0.5 <= test / train <= 2:
            yield Remark(
                f"The median volume of {name} is {train / 1000:.3g} ml in training and {test / 1000:.3g} ml in test cases.",
                "Networks are tested on targets of another size than they learnt from; another seed of the split deals anew.",
                "dataset.split",
            )
