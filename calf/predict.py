"""`calf predict`: masks of new images by a trained network, as NIfTI in the images' own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from calf.data.cases import Case, Image, Target
from calf.data.volumes import VolumeError
from calf.files import write_json
from calf.trained import Trained

if TYPE_CHECKING:
    import torch

SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")


def cases_of(images: Sequence[str], modalities: Sequence[str], name: str | None = None) -> list[Case]:
    """The cases that the command line names.

    ``modality=path`` for each modality is one case, called ``name``, or else after the file of the first; for a network of one
    modality a bare path is a case of its own.

    Raises:
        ValueError: a modality that the network does not know, one given twice, or one missing; two cases of one name.
    """
    named = [image.partition("=") for image in images]
    if len(modalities) == 1 and not any(which == modalities[0] for which, _, _ in named):
        cases = [_case({modalities[0]: image}, modalities) for image in images]
    else:
        given: dict[str, str] = {}
        for which, assigned, path in named:
            if not assigned or which not in modalities or which in given:
                raise ValueError(
                    f"expected {' '.join(f'{modality}=PATH' for modality in modalities)}, each once; got {' '.join(images)}"
                )
            given[which] = path
        if missing := [modality for modality in modalities if modality not in given]:
            raise ValueError(f"the network needs {', '.join(modalities)}; missing {', '.join(missing)}")
        cases = [_case(given, modalities)]
    if name is not None:
        if len(cases) > 1:
            raise ValueError(f"one name, {name}, was given for {len(cases)} images: predict them apart")
        cases = [replace(cases[0], id=name)]
    twice = sorted({case.id for case in cases if [other.id for other in cases].count(case.id) > 1})
    if twice:
        raise ValueError(
            f"several images are called {', '.join(twice)}: their masks would overwrite each other; predict them apart"
        )
    return cases


def _case(paths: dict[str, str], modalities: Sequence[str]) -> Case:
    first = Path(paths[modalities[0]])
    suffix = next((suffix for suffix in SUFFIXES if first.name.lower().endswith(suffix)), "")
    name = first.name[: len(first.name) - len(suffix)]
    return Case(name, name, {modality: Image(Path(path)) for modality, path in paths.items()})


def predict(
    trained: Trained,
    cases: Sequence[Case],
    out: Path,
    device: torch.device,
    mirror: bool,
    batch_size: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, str]:
    """Write ``<out>/<case>.nii.gz`` for each case, and ``<out>/labels.json``, what their values mean.

    ``progress`` is told the case, how many of its batches are done, and how many it has; None: a bar of cases in the terminal.

    Returns:
        The cases that could not be read, with the reason; the others are done all the same.

    Raises:
        ValueError: a mask would take the place of a file that is there, and ``overwrite`` was not asked for, or of an input.
    """
    from rich.progress import track

    from calf.data.restore import write_mask
    from calf.inference import predict_case

    targets = {case.id: out / f"{case.id}.nii.gz" for case in cases}
    inputs = {path.resolve() for case in cases for path in case.files()}
    if taken := [path for path in targets.values() if path.resolve() in inputs]:
        raise ValueError(f"{taken[0]} is one of the images: choose another folder with --out")
    if not overwrite and (there := [path for path in targets.values() if path.exists()]):
        raise ValueError(
            f"{there[0]} is there already, perhaps of another patient ({len(there)} of {len(targets)} are): name the case with "
            "--name, choose another folder with --out, or replace what is there with --overwrite"
        )
    out.mkdir(parents=True, exist_ok=True)
    network = trained.network().to(device)
    bad: dict[str, str] = {}
    for case in track(cases, description="predict") if progress is None else cases:
        tell = None if progress is None else partial(progress, case.id)
        try:
            mask, geometry = predict_case(network, case, trained.recipe, device, batch_size or trained.batch_size, mirror, tell)
        except VolumeError as error:
            bad[case.id] = str(error)
            continue
        write_mask(targets[case.id], mask, geometry)
    write_json(out / "labels.json", meanings(trained.recipe.target))
    return bad


def meanings(target: Target) -> dict[str, str]:
    """What each value of a predicted mask means.

    >>> meanings(Target(("liver", "tumour"), ((1, 2), (2,))))
    {'0': 'background', '1': 'liver', '2': 'tumour', '3': 'liver + tumour'}
    """
    if target.exclusive:
        return {str(value): name for value, name in enumerate(("background", *target.names))}
    values = range(2 ** len(target.names))
    parts = [[name for bit, name in enumerate(target.names) if value >> bit & 1] for value in values]
    return {str(value): " + ".join(names) or "background" for value, names in zip(values, parts, strict=True)}
