from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calf.cli import app
from tests.tiny import tiny


@pytest.fixture
def calf() -> CliRunner:
    return CliRunner()


def test_prepare_makes_the_store_that_training_reads(calf, tmp_path):
    first = calf.invoke(app, ["prepare", *tiny(tmp_path)])
    assert first.exit_code == 0, first.output
    folder = Path(first.output.split("prepared: ")[1].replace("\n", ""))
    assert (folder / "planes.npy").exists()
    assert calf.invoke(app, ["prepare", *tiny(tmp_path)]).output.split("prepared: ")[1].replace("\n", "") == str(folder)


def test_prepare_names_a_damaged_case_and_goes_on_only_when_told(calf, tmp_path):
    options = tiny(tmp_path)
    assert calf.invoke(app, ["prepare", *options]).exit_code == 0
    (mask,) = (tmp_path / "data").rglob("BraTS20_Training_002_flair.nii.gz")
    mask.write_bytes(mask.read_bytes()[:1000])
    refused = calf.invoke(app, ["prepare", *options])
    assert refused.exit_code == 1
    assert "1 of 6 cases cannot be prepared" in refused.output
    assert "BraTS20_Training_002_flair.nii.gz" in refused.output
    assert calf.invoke(app, ["prepare", *options, "dataset.skip_bad_cases=true"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prepare", "dataset=msd", "data_root=/nowhere"], "/nowhere"),
        (["prepare", "dataset=brats1999"], "brats2020"),
        (["prepare", "dataset.plain=axial"], "plain"),
        (["report", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_said_in_words_not_in_a_stack_trace(calf, arguments, said):
    result = calf.invoke(app, arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert "Traceback" not in result.output


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom calf.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('torch', 'pandas', 'hydra', 'pytorch_lightning') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_losses_prints_the_catalogue_or_a_part_of_it(calf):
    everything = calf.invoke(app, ["losses"])
    assert everything.exit_code == 0
    for path in (Path(__file__).resolve().parents[1] / "conf" / "loss").glob("*.yaml"):
        assert f"\n{path.stem}" in everything.output
    some = calf.invoke(app, ["losses", "calf_region"])
    assert "grid=4 area=pixels" in some.output
    assert "breaks permutation of voxels: a voxel belongs to a cell of the grid" in some.output
    assert "focal" not in some.output
    wrong = calf.invoke(app, ["losses", "cafl"])
    assert wrong.exit_code == 1
    assert "no loss is called cafl; there are" in wrong.output
