"""Folders of tiny random models, one of each family."""

from __future__ import annotations

from pathlib import Path

import pytest

from .tiny_models import TWO_TOWERS, build, build_vlm, spread


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder of a tiny model with its processor."""
    folders = {}
    for family in [*TWO_TOWERS, "vlm"]:
        model, processor = build_vlm() if family == "vlm" else build(family)
        folder = tmp_path_factory.mktemp(family)
        spread(model).save_pretrained(folder)
        processor.save_pretrained(folder)
        folders[family] = folder
    return folders
