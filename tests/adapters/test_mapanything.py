"""MapAnything's adapter on a recorded run of upstream's code: nothing of upstream is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters.contract import Reconstruction, Unavailable
from adapters.systems.mapanything import adapter as module
from adapters.systems.mapanything.adapter import Adapter, Outputs, network_size
from tests.adapters.recorded import replayed


def masked() -> tuple[Outputs, Reconstruction]:
    """The recorded run and what comes of it once a view's left half is masked and the other has no camera."""
    oracle, outputs, _ = replayed("mapanything", Adapter())
    outputs.shown[0, :, :37] = False
    outputs.points[0, :, :37] = 0.0
    outputs.intrinsics[1, 0, 0] = np.nan
    result = Adapter().finish(outputs, oracle.views)
    result.validate(oracle.views)
    return outputs, result


def test_masked_pixels_give_neither_point_nor_depth() -> None:
    outputs, result = masked()
    assert result.view_index is not None and result.pixel is not None and result.depth is not None
    first = result.view_index == 0
    assert first.sum() == outputs.shown[0].sum() and result.pixel[first, 0].min() > 61
    assert (result.depth[0][:, :61] == 0).all() and (result.depth[0][:, 63:100] > 0).all()


def test_a_view_without_a_camera_is_not_registered_and_keeps_its_points() -> None:
    outputs, result = masked()
    assert result.registered is not None and result.registered.tolist() == [True, False]
    assert result.view_index is not None and (result.view_index == 1).sum() == outputs.shown[1].sum()


def test_lengths_are_metric_as_the_network_said_them() -> None:
    outputs, result = masked()
    assert result.scale == "metric" and result.view_index is not None
    theirs, own = outputs.points[1].reshape(-1, 3).astype(float), result.points[result.view_index == 1].astype(float)
    assert np.ptp(theirs, axis=0).max() > 1
    across = np.linalg.norm(theirs[0] - theirs[-1])
    assert np.linalg.norm(own[0] - own[-1]) == pytest.approx(across, rel=1e-5)


@pytest.mark.parametrize(
    ("photos", "size"),
    [
        ([(640, 480)], (518, 392)),
        ([(480, 640)], (392, 518)),
        ([(1920, 1080)] * 2, (518, 294)),
        ([(640, 480), (480, 640)], (518, 518)),
        ([(3000, 200)], (518, 168)),
        ([(100, 1000)], (252, 518)),
    ],
)
def test_sizes_by_upstream_s_table(
    photos: list[tuple[int, int]], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATCH", 14)
    assert network_size(tuple(np.zeros((height, width, 3), np.uint8) for width, height in photos)) == size


def test_weights_that_are_no_folder_of_a_checkpoint_are_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"config\.json and model\.safetensors"):
        Adapter().load("cpu", str(tmp_path), 0)
