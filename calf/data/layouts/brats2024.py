"""The gliomas after treatment of BraTS 2024."""

from __future__ import annotations

import re

from calf.data.cases import Target
from calf.data.layouts.brats2023 import BraTS2023


class BraTS2024(BraTS2023):
    """182 x 218 x 182 voxels of 1 mm, skull-stripped, background 0; 1621 cases of GLI, and 188 without a mask.

    De Verdier et al. 2024, https://arxiv.org/abs/2405.18368. Names as in BraTS 2023. Label 4 is the resection cavity: neither
    enhancing tumour, as until 2021, nor part of the whole tumour; a region and a class of its own (``resection_cavity``).
    Label 2 is all FLAIR hyperintensity around the tumour, the effects of treatment included. The last three digits of a
    case are the time point.
    """

    source = "https://www.synapse.org/Synapse:syn53708249 (registration)"
    expected = "BraTS-GLI-00005-100/BraTS-GLI-00005-100-{t1n,t1c,t2w,t2f,seg}.nii.gz (or .nii), ..."
    case_id = re.compile(r"(BraTS-GLI-\d{5})-\d{3}")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.labels = {
            0: "background",
            1: "non-enhancing tumour core",
            2: "surrounding FLAIR hyperintensity",
            3: "enhancing tumour",
            4: "resection cavity",
        }
        cavity = Target(("resection_cavity",), ((4,),))
        regions = self.targets["regions"]
        self.targets |= {
            "resection_cavity": cavity,
            "regions": Target(regions.names + cavity.names, regions.labels + cavity.labels),
            "classes": Target(
                ("non_enhancing_core", "flair_hyperintensity", "enhancing", "resection_cavity"),
                ((1,), (2,), (3,), (4,)),
                exclusive=True,
            ),
        }
