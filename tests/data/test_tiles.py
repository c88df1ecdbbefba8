"""Cutting images into 8x8 tiles: which pixel goes where."""

import h5py
import numpy as np
import pytest

from jaxpho.data.tiles import count_tiles, cut_tiles, tiles_from_pixels


def numbered(shape):
    """An image whose value names its pixel: 1000 y + x."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (1000.0 * y + x).astype(float)


def positions(t):
    k = np.arange(64)
    return t.x0[:, None] + k // 8, t.y0[:, None] + k % 8


@pytest.mark.parametrize("shape", [(16, 24), (19, 13), (8, 8), (3, 5)])
def test_every_pixel_once_x_leading(shape):
    t = cut_tiles(numbered(shape), np.ones(shape))
    x, y = positions(t)
    inside = (x < shape[1]) & (y < shape[0])
    np.testing.assert_array_equal(t.data[inside], (1000 * y + x)[inside])
    assert inside.sum() == shape[0] * shape[1] == len(np.unique(t.data[inside]))
    # beyond the edge: padding without weight
    np.testing.assert_array_equal(t.ierr, inside.astype(float))
    # C order of (tile x, tile y)
    assert np.all(np.diff(t.x0 * 1000 + t.y0) > 0)


def test_masked_and_unwanted_tiles_are_dropped():
    shape = (24, 24)
    ierr, select = np.ones(shape), np.zeros(shape, bool)
    ierr[8:16, 8:16] = 0.0
    ierr[0:8, 0:7] = 0.0
    kept = cut_tiles(numbered(shape), ierr)
    assert len(kept.x0) == 8
    assert [8, 8] not in np.stack([kept.x0, kept.y0], -1).tolist()
    select[7, 7] = select[10, 10] = select[23, 16] = True
    kept = cut_tiles(numbered(shape), ierr, select)
    assert count_tiles(ierr, select) == (len(kept.x0), (kept.ierr > 0).sum())
    assert count_tiles(ierr)[0] > len(kept.x0)
    assert sorted(zip(kept.x0.tolist(), kept.y0.tolist(), strict=True)) == [(0, 0), (16, 16)]
    none = cut_tiles(numbered(shape), np.zeros(shape))
    assert none.data.shape == (0, 64)


def test_from_lists_of_pixels_in_any_order():
    shape = (19, 21)
    image, ierr = numbered(shape), np.random.default_rng(0).uniform(0.5, 1, shape)
    direct = cut_tiles(image, ierr)
    y, x = np.mgrid[: shape[0], : shape[1]]
    order = np.random.default_rng(1).permutation(image.size)
    found = tiles_from_pixels(*(a.ravel()[order] for a in (x + 8, y - 16, image, ierr)))
    sort = np.lexsort((found.y0, found.x0))
    np.testing.assert_array_equal(found.x0[sort], direct.x0 + 8)
    np.testing.assert_array_equal(found.y0[sort], direct.y0 - 16)
    np.testing.assert_array_equal(found.data[sort], direct.data)
    np.testing.assert_array_equal(found.ierr[sort], direct.ierr)


def test_a_pixel_given_twice_is_an_error():
    with pytest.raises(ValueError, match="more than once"):
        tiles_from_pixels(np.array([1, 2, 1]), np.array([5, 5, 5]), np.ones(3), np.ones(3))


@pytest.mark.parametrize("case", ["case1", "case2"])
def test_order_of_another_code(data_dir, case):
    """forcepho's packed pixels, and the super-pixels of its stores."""
    folder = data_dir / "forcepho_format" / case
    expected = np.load(folder / "expected.npz")
    for e, path in enumerate(expected["epaths"]):
        at = slice(expected["exposure_start"][e], None)
        at = slice(at.start, at.start + expected["exposure_N"][e])
        packed = (
            [expected[k][at] for k in ("xpix", "ypix", "data_before_fixed", "ierr")]
            if ("data_before_fixed" in expected)
            else [expected[k][at] for k in ("xpix", "ypix", "data", "ierr")]
        )
        t = tiles_from_pixels(*packed)
        x, y = positions(t)
        n = at.stop - at.start
        np.testing.assert_array_equal(x.ravel()[:n], packed[0])
        np.testing.assert_array_equal(y.ravel()[:n], packed[1])
        np.testing.assert_array_equal(t.ierr.ravel()[:n], packed[3])
        with h5py.File(folder / "pixels.h5") as f:
            stored = f[f"{path}/data"][:]
        ierr = np.zeros((stored.shape[1] * 8, stored.shape[0] * 8))
        blocks = stored[..., 64:].reshape(*stored.shape[:2], 8, 8)
        ierr[:] = blocks.transpose(1, 3, 0, 2).reshape(ierr.shape)
        cut = cut_tiles(ierr, ierr)
        keys = {(a, b): i for i, (a, b) in enumerate(zip(cut.x0, cut.y0, strict=True))}
        same = [keys[a, b] for a, b in zip(t.x0, t.y0, strict=True)]
        assert same == sorted(same)
        np.testing.assert_array_equal(cut.ierr[same], t.ierr)
