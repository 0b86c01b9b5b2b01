"""The fingerprint as a page and as a few lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as Terminal
from rich.text import Text as Words

from calf.inspect import figures
from calf.inspect.batches import NUM_BATCHES
from calf.inspect.remarks import dice, percent
from calf.page import Block, Facts, Figure, Page, Points, Row, Section, Table, Text

Fingerprint = dict[str, Any]


def document(found: Fingerprint, pictures: Sequence[Figure]) -> Page:
    """The whole page."""
    names, target = list(found["targets"]), found["target"]
    together = "which exclude each other" if target["exclusive"] else "which may overlap"
    which = f"Target: {', '.join(names)}{f', {together}' if len(names) > 1 else ''}."
    lead = f"{which} Store {found['store']}, files in {found['files']}."
    sections = [
        Section("At a glance", [Facts(facts(found))]),
        Section("What it means for losses", [Points([(own["says"], own["means"], own["basis"]) for own in found["remarks"]])]),
        Section("Samples", [Row(pictures)] if len(found["modalities"]) < 3 else pictures),
        Section("Target", _target(found)),
        Section("Slice areas", [Row([figures.areas(found, name) for name in names])]),
        Section("CALF in batches", _batches(found)),
        Section("Parts", _parts(found)),
        Section("Grids", _grids(found)),
        Section("Intensities", _intensities(found)),
        Section("Cases", _cases(found)),
        Section("How this was measured", [Text(text, small=True) for text in _method(found)]),
    ]
    return Page(f"{found['dataset']}: fingerprint", lead, sections)


def facts(found: Fingerprint) -> list[tuple[str, str]]:
    """The few numbers that come first."""
    ratio = found["background_to_foreground"]
    return [
        (str(found["num_cases"]), f"cases of {found['num_patients']} patients"),
        (str(found["num_slices"]), "slices"),
        (percent(found["empty_share"]), "of the slices without target"),
        ("-" if ratio is None else f"1 : {ratio:.0f}", "foreground to background, as a loss sees it"),
        (str(len(found["left_out"]) + len(found["without_mask"])), "cases left out"),
    ]


def _target(found: Fingerprint) -> list[Block]:
    """One row a quantity, one column a target."""
    rows: dict[str, list[str]] = {}
    for target in found["targets"].values():
        volume, parts = target["volume_mm3"], target["components"]
        in_case = parts["per_case"]
        cells = {
            "cases that have it": f"{target['present_in_cases']} of {found['num_cases']}",
            "volume in these, ml: median (least to most)": f"{_ml(volume['p50'])} ({_ml(volume['min'])} to {_ml(volume['max'])})",
            "share of the voxels": percent(target["share_of_voxels"]),
            "share of what a loss sees, padding included": percent(target["share_of_pixels"]),
            "slices that show it": percent(1 - target["empty_share"]),
            "connected components in a case: median (most)": f"{_whole(in_case['p50'])} ({_whole(in_case['max'])})",
            "median component, ml": _ml(parts["volume_mm3"]["p50"]),
            "components of a single voxel": percent(parts["single_voxel_share"]),
            "Dice of the largest component alone": dice(parts["dice_of_largest"]),
            "largest radius in a slice, pixels": _number(target["largest_radius_px"], ".1f"),
        }
        for quantity, cell in cells.items():
            rows.setdefault(quantity, []).append(cell)
    return [Table(["", *found["targets"]], [[quantity, *cells] for quantity, cells in rows.items()])]


def _batches(found: Fingerprint) -> list[Block]:
    """Skewness and kurtosis, of all slices and of batches, and what follows."""
    header = ["", "areas of", "skewness S", "kurtosis K", "branch at scope=dataset"]
    rows = [
        [name, what, _number(own["skewness"], ".2f"), _number(own["kurtosis"], ".2f"), own["branch"]]
        for name, target in found["targets"].items()
        for what, own in (("all slices", target["all_slices"]), ("training slices", target["training_slices"]))
    ]
    size = next(batch for batch in found["batches"] if batch["size"] == found["batch_size"])
    spread = [
        f"{name}: S {_span(own['skewness'])}, K {_span(own['kurtosis'])}, undefined in {percent(own['undefined'])}"
        for name, own in size["targets"].items()
    ]
    return [
        Row([figures.branches(found, name) for name in found["targets"]]),
        Text(f"In batches of {found['batch_size']}, median and 5 % to 95 %: {'; '.join(spread)}."),
        Table(header, rows[:: 1 if found["split"] else 2], num_text=2),
    ]


def _span(levels: dict[str, float | None]) -> str:
    return f"{_number(levels['p50'], '.2f')} ({_number(levels['p5'], '.2f')} to {_number(levels['p95'], '.2f')})"


def _parts(found: Fingerprint) -> list[Block]:
    drawn = Row([figures.volumes(found, name) for name, target in found["targets"].items() if target["present_in_cases"]])
    if found["split"] is None:
        return [Text(f"No split could be made: {found['no_split']}"), drawn]
    header = ["part", "patients", "cases", "slices", "empty"]
    header += [text for name in found["targets"] for text in (f"{name}: cases", "median, ml")]
    rows = []
    for part, own in found["split"].items():
        cells = [part, str(own["patients"]), str(own["cases"]), str(own["slices"]), percent(own["empty_share"])]
        for target in own["targets"].values():
            cells += [str(target["present_in_cases"]), _ml(target["volume_mm3"]["p50"])]
        rows.append(cells)
    return [Table(header, rows), drawn]


def _grids(found: Fingerprint) -> list[Block]:
    kinds: dict[tuple[str, ...], int] = {}
    for case in found["cases"]:
        key = (_times(case["shape"]), " x ".join(f"{step:.3g}" for step in case["spacing_mm"]), case["orientation"])
        kinds[key] = kinds.get(key, 0) + 1
    ordered = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))
    header = ["voxels (left-right, back-front, feet-head)", "spacing, mm", "orientation of the file", "cases"]
    shown = [[*key, str(number)] for key, number in ordered]
    size, pixel = found["preparation"]["size"], found["pixel_mm"]
    shapes = [sorted(case["shape"][axis] for case in found["cases"]) for axis in range(3)]
    files = " x ".join(f"{own[0]} to {own[-1]}" if own[0] < own[-1] else f"{own[0]}" for own in shapes)
    text = (
        f"Files: {files} voxels (left-right, back-front, feet-head). "
        f"Stored: {found['preparation']['plane']} slices of {size[0]} x {size[1]} pixels of {pixel['rows']['p50']:.3g} x "
        f"{pixel['columns']['p50']:.3g} mm (medians), {pixel['slices']['p50']:.3g} mm from slice to slice; "
        f"{percent(found['padding_share'])} of the pixels are padding."
    )
    return [Text(text), Table(header, shown, num_text=3, folded=f"all {len(shown)} kinds" if len(shown) > 8 else None)]


def _intensities(found: Fingerprint) -> list[Block]:
    header = ["modality", "least", "0.5 %", "median", "99.5 %", "most", "background", "of the voxels"]
    rows = []
    for modality in found["modalities"]:
        levels = [case["intensities"][modality] for case in found["cases"]]
        values = {level["background"] for level in levels}
        background = "differs" if len(values) > 1 else "none" if None in values else _number(next(iter(values)), ".4g")
        cells = [_range([level[key] for level in levels]) for key in ("min", "p0.5", "p50", "p99.5", "max")]
        rows.append([modality, *cells, background, _range([level["background_share"] for level in levels], share=True)])
    note = "Ranges over the cases, in the units of the files; percentiles are of what is not background."
    drawn = Row([figures.intensity(found, modality) for modality in found["modalities"]])
    return [drawn, Table(header, rows), Text(note, small=True)]


def _range(values: list[float | None], share: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = ((percent(value) if share else _number(value, ".4g")) for value in (min(known), max(known)))
    return low if low == high else f"{low} to {high}"


def _cases(found: Fingerprint) -> list[Block]:
    names = list(found["targets"])
    header = ["case", "patient", "part", "voxels", "spacing, mm"]
    header += [text for name in names for text in (f"{name}, ml", "of the voxels", "components")]
    rows = []
    for case in found["cases"]:
        spacing = " x ".join(f"{step:.3g}" for step in case["spacing_mm"])
        row = [case["case"], case["patient"], case["part"] or "-", _times(case["shape"]), spacing]
        for own in case["targets"].values():
            row += [_ml(own["volume_mm3"]), percent(own["share"]), str(own["components"])]
        rows.append(row)
    blocks: list[Block] = [Table(header, rows, num_text=5, folded=f"all {len(rows)} cases")]
    if found["left_out"]:
        blocks += [
            Text("Left out, since they cannot be read:"),
            Table(["case", "reason"], list(found["left_out"].items()), num_text=2),
        ]
    if found["without_mask"]:
        blocks.append(Text(f"Without a mask, so for prediction only: {', '.join(found['without_mask'])}."))
    return blocks


def _method(found: Fingerprint) -> list[str]:
    counted = "the files' own voxels" if found["voxels_as_in_files"] else "stored pixels, after cropping, resampling or resizing"
    return [
        "Volumes, shares of a case and components are of the masks that networks learn from, in the voxels of the case's own "
        "files; voxels that share a face, an edge or a corner are one component. Dice of the largest component alone: of a "
        "prediction that is the largest component of each case exactly; mean over the cases that have the target.",
        f"Slice areas are counts of {counted}. What a loss sees includes the padding.",
        "Skewness and excess kurtosis are CALF's own (biased, empty slices counting 0), and so is the choice of the branch. "
        f"Batches are drawn from {found['simulated_from']}, as training on one device draws them, {NUM_BATCHES} of each size, "
        "seed 0, before any augmentation; a share is known to within "
        "1.6 percentage points. With several GPUs and loss.ddp=global the batch is that of all of them "
        "together. Areas within contours (loss.area=contour) can choose otherwise.",
        "Intensities are those of the files, read again: the store holds 8 bits after normalisation. Background is the value "
        "that all eight corners of a volume share, as in preparation.",
        "Samples are slices as stored, without black margins: plain, then with each target outlined. fingerprint.json beside "
        "this page has every number; calf/inspect/fingerprint.py says what each of them is.",
    ]


def terminal(found: Fingerprint) -> RenderableType:
    """The summary for the terminal."""
    table = Terminal(title=Words(f"{found['dataset']}: fingerprint"), title_justify="left", show_header=False)
    for number, what in facts(found):
        table.add_row(Words(number, style="bold"), Words(what))
    remarks = [Words(f"- {remark['says']}") for remark in found["remarks"]]
    return Group(table, *remarks)


def _ml(volume_mm3: float | None) -> str:
    return _number(None if volume_mm3 is None else volume_mm3 / 1000, ".3g")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _whole(value: float | None) -> str:
    return _number(value, "g")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
