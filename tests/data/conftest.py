"""A DICOM series and a phantom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from calf.data.phantom import Phantom

OBLIQUE = [0.8, 0.6, 0, -0.36, 0.48, 0.8]


@pytest.fixture
def ct(shared: Path) -> Path:
    return shared / "data/dicom_seg/ct-3slice"


@pytest.fixture
def small_series(ct: Path, tmp_path: Path) -> Path:
    """Six slices of 24 x 32 pixels with different values, oblique, 2.5 mm apart, in files of no meaningful order."""
    folder = tmp_path / "series"
    folder.mkdir()
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    for number, name in enumerate("dbface"):
        header = pydicom.dcmread(ct / "01.dcm")
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        header.SpecificCharacterSet = "ISO_IR 100"
        header.Rows, header.Columns, header.PixelSpacing = 24, 32, [0.75, 0.5]
        header.ImageOrientationPatient = OBLIQUE
        header.ImagePositionPatient = [round(float(x), 4) for x in np.array([10, -20, 30]) + number * 2.5 * normal]
        header.PixelData = (np.arange(24 * 32, dtype=np.int16) + 1000 * number).tobytes()
        header.save_as(folder / f"{name}.dcm")
    return folder


@pytest.fixture(scope="session")
def default_phantom(tmp_path_factory: pytest.TempPathFactory) -> Phantom:
    """The phantom as it is without any argument. Not to be changed."""
    phantom = Phantom(tmp_path_factory.mktemp("default"))
    phantom.ensure()
    return phantom
