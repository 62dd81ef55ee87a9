"""Shared by the tests of kdc_model: made pictures; one thread for torch, as the networks here are tiny."""

from pathlib import Path

import pytest
import torch

from kdc_model.config import TrainConfig
from kdc_model.data.scenes import write_dataset

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_folder(tmp_path_factory) -> Path:
    """Seven made pictures of 96 x 128 pixels (more than one step of two, and an odd number)."""
    folder = tmp_path_factory.mktemp("made")
    write_dataset(folder, 7, 96, 128, people=(0, 3), seed=3)
    return folder


@pytest.fixture
def small_config(made_folder) -> TrainConfig:
    """A small network on the made pictures, two at a time."""
    return TrainConfig(
        train_annotations=(str(made_folder / "annotations.json"),),
        train_images=(str(made_folder / "images"),),
        channels=8,
        head_units=1,
        input_size=64,
        long_side=96,
        batch_size=2,
        workers=0,
        mixed_precision=False,  # the same on every machine, and exact enough to compare
        seed=1,
    )


@pytest.fixture(scope="session")
def backbones(shared_data) -> Path:
    """Published trunks beside the checkout; the test is skipped where there are none."""
    folder = shared_data / "backbones"
    if not folder.is_dir():
        pytest.skip(f"no pretrained trunks at {folder}")
    return folder
