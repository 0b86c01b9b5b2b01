"""The smallest real run: a phantom of a few coarse patients, a plain U-Net of a few channels."""

from __future__ import annotations

from pathlib import Path

#: A network with dropout and batch statistics, which a plain U-Net has not, and as few weights as will do.
SMALL_FPN = (
    "model=fpn",
    "model.encoder_name=tu-test_resnet",
    "model.decoder_pyramid_channels=32",
    "model.decoder_segmentation_channels=32",
)


def tiny(folder: Path, *overrides: str) -> list[str]:
    """Overrides of a run that trains in seconds and keeps everything it makes in ``folder``."""
    return [
        f"data_root={folder}/data",
        f"stores_dir={folder}/stores",
        f"runs_dir={folder}/runs",
        "dataset.layout.patients=6",
        "dataset.layout.shape=[32,32,10]",
        "dataset.layout.spacing_mm=[6,6,15]",
        "dataset.batch_size=8",
        "dataset.workers=1",
        *(() if any(override.startswith("model=") for override in overrides) else ("model=unet_plain", "model.width=4")),
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=false",
        "logger=none",
        "pictures=0",
        *overrides,
    ]
