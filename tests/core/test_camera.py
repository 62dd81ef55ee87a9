"""The camera model: pixels to space and back, with and without lens distortion."""

from __future__ import annotations

import numpy as np
import pytest

from kdc_core.camera import CameraModel

PLUMB_BOB = (-0.3, 0.12, 0.001, -0.002, -0.02)
RATIONAL = (0.4, -0.2, 0.0005, 0.0003, 0.01, 0.7, -0.15, 0.02)
FISHEYE = (-0.02, 0.004, -0.003, 0.0005)
CAMERAS = {
    "none": CameraModel(600, 590, 320, 235),
    "plumb_bob": CameraModel(600, 590, 320, 235, PLUMB_BOB, "plumb_bob"),
    "rational": CameraModel(600, 590, 320, 235, RATIONAL, "rational_polynomial"),
    "equidistant": CameraModel(300, 295, 320, 235, FISHEYE, "equidistant"),
}


@pytest.mark.parametrize("name", CAMERAS)
def test_there_and_back(name):
    camera = CAMERAS[name]
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -0.8, 2), (1, 0.8, 6), (5, 7, 3))
    pixels = camera.project(points)
    back = camera.to_plane(pixels, points[..., 2])
    assert back.shape == points.shape
    assert np.allclose(back, points, atol=2e-3)
    directions = points / np.linalg.norm(points, axis=-1, keepdims=True)
    assert np.allclose(camera.rays(pixels), directions, atol=1e-3)
    assert np.allclose(camera.to_plane(np.array([camera.cx, camera.cy]), 2.0), [0, 0, 2.0], atol=1e-6)


def test_distortion_matters():
    corner = np.array([20.0, 20.0])
    plain, bent = (CAMERAS[name].to_plane(corner) for name in ("none", "plumb_bob"))
    assert np.linalg.norm(plain - bent) > 0.03


@pytest.mark.parametrize("name", CAMERAS)
def test_unknown_places_stay_unknown(name):
    camera = CAMERAS[name]
    points = camera.to_plane(np.array([[10.0, 20.0], [np.nan, 1.0]]), np.array([1.0, 1.0]))
    assert np.isfinite(points[0]).all()
    assert np.isnan(points[1, :2]).any()
    assert np.isnan(camera.to_plane(np.array([10.0, 20.0]), np.nan)).all()
    assert np.isnan(camera.project(np.array([[0, 0, -1.0], [np.nan] * 3]))).all()


def test_wide_lenses_that_can_be_undone_are():
    """Their edges take more iterations than OpenCV makes by itself."""
    duckietown = CameraModel(315, 318, 334, 268, (-0.279, 0.0603, 0.0019, 0.0017, 0.0), "plumb_bob")
    kitti = CameraModel(959.8, 956.9, 696.0, 224.2, (-0.3691, 0.1968, 0.00135, 0.00057, -0.0677), "plumb_bob")
    for camera, width, height in ((duckietown, 640, 480), (kitti, 1392, 512)):
        pixels = np.stack(np.meshgrid(np.arange(0, width, 9.0), np.arange(0, height, 9.0)), -1)
        points = camera.to_plane(pixels)
        assert np.isfinite(points).all(-1).mean() > 0.99
        assert np.nanmax(np.linalg.norm(camera.project(points) - pixels, axis=-1)) < 1


def test_what_the_lens_model_cannot_undo_is_unknown():
    """Wide lenses: beyond 89 degrees, or where undistorting ends up at another place, there is no ray."""
    wide = CameraModel(286, 286, 420, 400, (-0.0087, 0.0412, -0.0385, 0.0067), "equidistant")
    barrel = CameraModel(300, 300, 320, 240, (-0.34, 0.12, 0.0, 0.0, -0.02), "plumb_bob")
    for camera, width, height, share in ((wide, 848, 800, 0.2), (barrel, 640, 480, 0.02)):
        pixels = np.stack(np.meshgrid(np.arange(0, width, 7.0), np.arange(0, height, 7.0)), -1)
        points = camera.to_plane(pixels, 2.0)
        known = np.isfinite(points[..., :2]).all(-1)
        assert 1 - known.mean() > share
        assert known[40:-40, 30:-30].all()
        assert np.linalg.norm(camera.project(points[known]) - pixels[known], axis=-1).max() < 1
        # Known places lie on their own side of the axis.
        away = pixels - (camera.cx, camera.cy)
        assert (points[..., :2] * away >= 0)[known].all()
        assert np.isnan(camera.rays(pixels[~known])).all()


def test_another_size():
    camera = CameraModel(1000.0, 990.0, 639.5, 479.5)
    half = camera.resized((960, 1280), (480, 640))
    assert (half.fx, half.fy, half.cx, half.cy) == (500.0, 495.0, 319.5, 239.5)
    # The centre of the upper left pixel of the half is the corner between four of the whole.
    assert np.allclose(half.to_plane(np.zeros(2)), camera.to_plane(np.full(2, 0.5)))


@pytest.mark.parametrize(
    "bad",
    [
        {"fx": 0.0},
        {"fy": -1.0},
        {"cx": float("nan")},
        {"distortion": (0.1,)},
        {"distortion": (0.1,) * 4, "model": "mystery"},
        {"distortion": (0.1,) * 5, "model": "equidistant"},
        {"distortion": (float("inf"),) * 5},
    ],
)
def test_what_is_no_camera(bad):
    with pytest.raises(ValueError, match=r"camera|distortion|coefficients"):
        CameraModel(**({"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0} | bad))
