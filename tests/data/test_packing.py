"""Packing: round trips, padding, buckets and what must not reach the device."""

import jax
import numpy as np
import pytest
from forcepho_case import load_case
from synthetic_patch import PSF_DTYPE, make

from jaxpho.data.packing import PackedPatch, bucket, build_patch, expand_psf, point_psf

FLOAT32_RTOL = 1e-7


def packed_of(s):
    n = len(s.tiles)
    bands = [f"b{k}" for k in range(s.exposure_band.max() + 1)]
    return PackedPatch(
        patch=s.patch,
        reference=(10.0, 35.0),
        exposures=[f"e{k}" for k in range(n)],
        bands=bands,
        exposure_bands=[bands[k] for k in s.exposure_band],
        blocks=s.blocks,
        n_tiles=[len(t.x0) for t in s.tiles],
        n_sources=len(s.types),
    )


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("case", ["case1", "case2"])
def test_round_trip_of_another_codes_arrays(data_dir, case, pad):
    """`to_numpy` returns the arrays of the specification, padding stripped."""
    folder = data_dir / "forcepho_format" / case
    patch, blocks, _, expected = load_case(folder, pad=pad, tiles_per_block=2)
    n_band = len(expected["band_N"])
    bands = [f"b{k}" for k in range(n_band)]
    exposure_bands = np.repeat(bands, expected["band_N"]).tolist()
    packed = PackedPatch(
        patch=patch,
        reference=tuple(expected["reference_coordinates"]),
        exposures=[str(p) for p in expected["epaths"]],
        bands=bands,
        exposure_bands=exposure_bands,
        blocks=blocks,
        n_tiles=[-(-int(n) // 64) for n in expected["exposure_N"]],
        n_sources=int(expected["n_sources"]),
    )
    found = packed.to_numpy()
    for ours, theirs in (("D", "D"), ("CW", "CW"), ("CRVAL", "crval"), ("G", "G")):
        np.testing.assert_allclose(found[ours], expected[theirs], rtol=FLOAT32_RTOL, atol=1e-12)
    np.testing.assert_allclose(found["CRPIX"], expected["crpix"], atol=1e-5)
    for name in ("xpix", "ypix", "ierr", "band_N", "exposure_N", "exposure_start", "n_radii"):
        if name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    good = expected["ierr"] > 0
    np.testing.assert_array_equal(found["data"][good], expected["data"][good])
    assert not found["data"][~good].any()
    np.testing.assert_array_equal(found["band_start"], expected["band_start"])
    np.testing.assert_array_equal(found["n_psf_per_source"], expected["n_psf_per_source"])
    np.testing.assert_array_equal(found["psfgauss_start"], expected["psfgauss_start"])
    # every source has the first one's PSF here, as that code's kernel does
    assert len(found["psfgauss_amp"]) == len(expected["psfgauss_amp"])
    n = int(expected["n_psf_per_source"][0])
    for name in ("amp", "xcen", "ycen", "Cxx", "Cyy", "Cxy", "sersic_bin"):
        np.testing.assert_array_equal(
            found[f"psfgauss_{name}"][:n], expected[f"psfgauss_{name}"][:n]
        )


def test_pixels_of_an_exposure_carry_other_arrays_along():
    s = make(1, ("point",), n_bands=2, exposures_per_band=2, shape=(19, 30), origin=(800, 160))
    packed = packed_of(s)
    value = np.arange(s.patch.data.size, dtype=float).reshape(s.patch.data.shape)
    for e, t in enumerate(s.tiles):
        found = packed.pixels(e, value=value)
        k = np.arange(64)
        np.testing.assert_array_equal(found["x"], (t.x0[:, None] + k // 8).ravel())
        np.testing.assert_array_equal(found["y"], (t.y0[:, None] + k % 8).ravel())
        np.testing.assert_allclose(found["ierr"], t.ierr.ravel(), rtol=FLOAT32_RTOL)
        expected = np.where(t.ierr > 0, t.data, 0.0)
        np.testing.assert_allclose(found["data"], expected.ravel(), rtol=FLOAT32_RTOL)
        assert len(found["value"]) == t.data.size


def test_buckets():
    assert [bucket(n) for n in (0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 17, 25, 33)] == [
        1, 1, 2, 3, 4, 6, 6, 8, 12, 12, 16, 24, 32, 48,
    ]  # fmt: skip
    assert bucket(2, minimum=8) == 8
    sizes = [bucket(n) for n in range(1, 2000)]
    assert sizes == sorted(sizes) and len(set(sizes)) < 25
    assert max(size / n for n, size in enumerate(sizes, 1)) <= 1.5


def test_patches_of_similar_size_share_a_shape():
    """So that a mosaic compiles a handful of programs."""
    shapes = set()
    for types, shape in ((("sersic",) * 5, (40, 30)), (("point",) * 6, (33, 36))):
        s = make(1, types, n_bands=1, exposures_per_band=3, shape=shape, simulate=False)
        shapes.add(tuple(a.shape for a in jax.tree.leaves(s.patch)))
    assert len(shapes) == 1


def test_the_number_of_psf_gaussians_is_hardly_padded():
    """Each of them costs time in every pixel: 12 x 3 stays 36."""
    s = make(1, ("sersic",), n_psf=3, mixture="k12", simulate=False)
    assert s.patch.psf.flux.shape[-1] == 36


def test_bad_pixels_never_reach_the_device():
    """NaN data, NaN or infinite or negative errors: weight zero, data zero."""
    s = make(1, ("point",), n_bands=1, exposures_per_band=1, masked=0.0)
    t = s.tiles[0]
    data, ierr = t.data.copy(), t.ierr.copy()
    data[0, 0], data[0, 1] = np.nan, np.inf
    ierr[0, 2], ierr[0, 3], ierr[0, 4], ierr[0, 5] = np.nan, np.inf, -1.0, 0.0
    patch = s._replace(tiles=[t._replace(data=data, ierr=ierr)]).pack().patch
    assert not np.asarray(patch.ierr)[0, :6].any()
    assert not np.asarray(patch.data)[0, :6].any()
    assert np.all(np.asarray(patch.ierr)[0, 6:64] > 0)


def test_psf_layouts():
    one = np.zeros(2, PSF_DTYPE)
    one["amp"], one["sersic_bin"] = [0.7, 0.3], -1
    wide = expand_psf(one, 3)
    np.testing.assert_array_equal(wide["sersic_bin"], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(wide["amp"], np.float32([0.7, 0.3] * 3))
    assert expand_psf(wide, 3) is wide
    np.testing.assert_array_equal(point_psf(wide)["sersic_bin"], [0, 0])
    np.testing.assert_array_equal(point_psf(one)["amp"], one["amp"])


def test_sources_of_one_exposure_need_one_layout():
    s = make(1, ("sersic", "point"), n_bands=1, exposures_per_band=1, simulate=False)
    psf = [[s.psf[0][0], s.psf[0][1][:1]]]
    with pytest.raises(ValueError, match="layout"):
        build_patch(s.tiles, [0], s.astrometry, psf, n_radii=8)
