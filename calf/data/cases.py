"""What a data set is made of: cases, their files, and what is to be segmented in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Image:
    """One modality of one case: a 3-D file, one channel of the last axis of a 4-D file, or a folder with one DICOM series.

    NIfTI, and whatever ITK reads (MetaImage, NRRD); see ``calf.data.volumes``.
    """

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class Case:
    """One examination. Cases of the same ``patient`` never part in a split.

    Attributes:
        id: unique in the data set.
        patient: the person. Repeat examinations share it.
        images: by modality.
        mask: what a network is trained on: a volume, or a DICOM segmentation. A case without one can only be predicted.
        reference: where there is one, what is scored against instead (the clean truth of a phantom whose annotation is biased).
        subset: the official part or fold the case belongs to, as the data set's authors call it.
        aliases: other names under which the same patient is known in other data sets, such as ``BraTS2021_00012``.
        partly_labelled: only axial slices that show a label were annotated. The others are unlabelled, not background: nothing
            is learnt from them and nothing is scored on them.
    """

    id: str
    patient: str
    images: dict[str, Image]
    mask: Path | None = None
    reference: Path | None = None
    subset: str | None = None
    aliases: tuple[str, ...] = ()
    partly_labelled: bool = False

    def files(self) -> list[Path]:
        """Every file of the case, each once, in a fixed order."""
        paths = [image.path for image in self.images.values()] + [self.mask, self.reference]
        return list(dict.fromkeys(path for path in paths if path is not None))


@dataclass(frozen=True)
class Target:
    """What is to be segmented: for each name, the label values that make it.

    ``exclusive``: the names exclude each other; the target is a class index (0 = background) and the network has
    ``1 + len(names)`` softmax channels. Otherwise each name is a sigmoid channel of its own, and regions may overlap;
    a single name is the binary case.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    exclusive: bool = False

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.labels):
            raise ValueError(f"a target needs as many label sets as names, at least one: got {self.names} and {self.labels}")
        if len(self.names) > 8:
            raise ValueError(f"at most 8 regions or classes fit the store's mask, got {len(self.names)}: {self.names}")
        used = [value for values in self.labels for value in values]
        if self.exclusive and len(set(used)) != len(used):
            raise ValueError(f"exclusive classes share a label value: {dict(zip(self.names, self.labels, strict=True))}")

    @property
    def num_channels(self) -> int:
        """Output channels of a network for this target."""
        return len(self.names) + 1 if self.exclusive else len(self.names)


class Layout(Protocol):
    """How one data set lies on disk. Reads no voxels; see ARCHITECTURE.md."""

    modalities: tuple[str, ...]
    labels: dict[int, str]
    targets: dict[str, Target]

    def ensure(self) -> None:
        """Make the data exist, or raise a ValueError that says where they were looked for and what to do."""

    def cases(self) -> list[Case]:
        """Every case, sorted by id; a ValueError names the folder when there is none."""
