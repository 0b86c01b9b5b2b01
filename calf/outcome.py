"""What a finished run leaves: its case rows, what a checkpoint needs to know of its data, and its result."""

from __future__ import annotations

import math
import resource
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from calf.data.build import StorePlan
from calf.data.joined import source_of
from calf.data.joined_plan import JoinedPlan
from calf.data.store import channels_of
from calf.data.views import Samples
from calf.files import write_json, write_text
from calf.plan import RunPlan, division_of, left_out_of
from calf.provenance import versions

if TYPE_CHECKING:
    from calf.data.datamodule import SliceData
    from calf.module import Segmenter

PRIMARY = "dice"  # chooses the checkpoint on validation data, and is what a sweeper optimises


def result_of(cfg: DictConfig, planned: RunPlan, data: SliceData, module: Segmenter) -> dict[str, Any]:
    """What result.json holds, after the case rows, the split and what a checkpoint needs to know of its data were written."""
    import torch

    rows = module.test_rows
    assert rows is not None
    if module.protocol.name == "per_case":  # a table never silently lacks a case, or counts one twice
        tested = {case.id for case in data.store.cases if case.patient in data.division.test}
        assert set(rows["case"]) == tested, f"scored {sorted(set(rows['case']) ^ tested)} amiss"
        assert len(rows) == len(tested) * rows["class"].nunique() * rows["metric"].nunique(), "a case lacks a metric"
    scores = {name: json_number(value) for name, value in module.protocol.summarise(rows).items()}
    names = planned.names
    part = rows.pop("part") if "part" in rows else None
    context = {"protocol": module.protocol.name, "dataset": names["dataset"], "split": data.division.hash}
    context |= {"fold": cfg.fold, "seed": cfg.seed, "model": names["model"], "loss": names["loss"]}
    for position, (column, entry) in enumerate(context.items()):
        rows.insert(position, column, entry)
    if part is not None:  # tested apart; the name of the whole keeps them from rows of runs on the part alone
        rows["dataset"] = names["dataset"] + "/" + part
    write_text(planned.folder.cases, rows.to_csv(index=False))
    write_json(planned.folder.path / "split.json", {part: getattr(data.division, part) for part in ("train", "val", "test")})
    write_json(planned.folder.path / "data.json", _data(planned.store, data))
    cuda = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {
        "status": "finished",
        "names": names,
        "seed": cfg.seed,
        "fold": cfg.fold,
        "protocol": module.protocol.name,
        "primary": {"metric": PRIMARY, "value": scores[PRIMARY]},
        "test": scores,
        "parameters": sum(parameter.numel() for parameter in module.network.parameters()),
        "peak_memory_mb": (cuda or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**20,
        "peak_memory_of": "cuda" if cuda else "process",
        "threads": torch.get_num_threads(),
        "fingerprint": planned.fingerprint,
        "store_key": planned.store.key,
        "split_hash": data.division.hash,
        "scored_on": _scored_on(data.store, module.protocol.original_grid),
        "left_out": left_out_of(planned.store, data.store),
        "same_person_twice": division_of(cfg, planned.store, data.store)[1],
        "slices": data.kept,
        "versions": versions(),
    }


def _data(planned: StorePlan | JoinedPlan, data: SliceData) -> dict[str, Any]:
    """What a checkpoint needs to know of its data to be used again, and where the tested cases lie."""
    manifest, store = data.store.manifest, data.store
    plans = {name: part.plan for name, part in planned.parts.items()} if isinstance(planned, JoinedPlan) else {None: planned}
    listed = {(name, case.id): case for name, plan in plans.items() for case in plan.cases}
    tested = {}
    for number, stored in enumerate(store.cases):
        if stored.patient not in data.division.test:
            continue
        source = source_of(store, number)
        case = listed[source.part, source.case]
        tested[stored.id] = {
            "dataset": source.part,
            "images": {
                name: [str(image.path.resolve()), image.channel]
                for name, image in case.images.items()
                if source.modality in (None, name)
            },
            "mask": str(case.mask.resolve()) if case.mask else None,
            "reference": str(case.reference.resolve()) if case.reference else None,
            "annotated_slices": stored.annotated_slices,
        }
    return {
        **{key: manifest[key] for key in ("modalities", "target", "preparation", "samples", "parts") if key in manifest},
        "labels": next(iter(plans.values())).labels if len(plans) == 1 else {name: plan.labels for name, plan in plans.items()},
        "train_volumes_mm3": _train_volumes_mm3(data),
        "test_cases": tested,
    }


def _train_volumes_mm3(data: SliceData) -> dict[str, list[float]]:
    """Of each target name the reference volume in every training case, 0 where there is none: what strata are cut by.

    In the units of ``reference_volume_mm3``: of what a case would be scored against, in the annotated voxels of its own files.
    """
    store, names = data.store, data.target.names
    volumes: dict[str, list[float]] = {name: [] for name in names}
    for number, case in enumerate(store.cases):
        if case.patient in data.division.train:
            truth = store.truth(number)
            if case.annotated is not None:
                truth = np.where(case.annotated, truth, 0)
            for name, channel in zip(names, channels_of(truth, data.target), strict=True):
                volumes[name].append(float(np.count_nonzero(channel) * case.voxel_volume_mm3))
    return volumes


def _scored_on(store: Samples, original_grid: bool) -> str:
    if original_grid or store.unchanged:
        return "original grid"
    return "slices of {} x {} pixels as stored".format(*store.manifest["preparation"]["size"])


def json_number(value: float | None) -> float | None:
    """JSON has no NaN."""
    return None if value is None or math.isnan(value) else value
