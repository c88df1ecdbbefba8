"""pysersic_reference: the input of a published pysersic fit, against an exact solution.

The exact solution (README of the data set) convolves the Sersic law with the PSF image itself,
with a Gaussian loss and no sky. pysersic's posterior has a Student-t loss and is no reference.
"""

import asdf
import numpy as np
import pytest

from jaxpho.data.arrays import exposure_from_arrays
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.fit.driver import fit_patch
from psfmix.fit import fit_mixture

pytestmark = pytest.mark.realdata
EXACT = {
    "flux": 3720.7, "r": 6.194, "n": 3.494, "ell": 0.324, "theta": 0.8697, "x": 60.442, "y": 59.253,
}  # fmt: skip
TOLERANCE = {
    "flux": 0.01 * EXACT["flux"], "r": 0.015 * EXACT["r"], "n": 0.12, "ell": 0.01,
    "theta": 0.01, "x": 0.01, "y": 0.01,
}  # fmt: skip
PSF_CENTRE = (21, 21)  # of the 43 x 43 samples


@pytest.fixture(scope="module")
def data(data_dir):
    with asdf.open(data_dir / "pysersic_reference" / "example_fit.asdf") as tree:
        return {k: np.array(v) for k, v in tree["input_data"].items()}


@pytest.mark.parametrize(("ngauss", "signed"), [(4, False), (6, True)])
def test_independent_optimum(data, ngauss, signed):
    # native samples of the PSF contain the pixel
    psf = fit_mixture(
        data["psf"], ngauss=ngauss, signed=signed, includes_pixel=True, center=PSF_CENTRE
    )
    bad = ~data["mask"]  # pysersic's mask is True for good pixels
    exposure = exposure_from_arrays(
        data["image"], data["rms"], psf, mask=bad, pixel_scale=1.0, dec=2.0
    )
    ra, dec = (float(v) for v in exposure.wcs.pixel_to_world_values(60.0, 59.0))
    peak = Peak(
        id=1, type="sersic", ra=ra, dec=dec, values={"rhalf": 5.0, "sersic": 2.0}, flux={},
        fixed=frozenset(), flags=0,
    )  # fmt: skip
    result = fit_patch(pack_patch([exposure], [peak], bands=["band"]), [peak])
    v = {name: value for (_, name, _), value in zip(result.labels, result.theta, strict=True)}
    e = np.hypot(v["e1"], v["e2"])
    q = (1 - e) / (1 + e)
    degrees = 1 / 3600
    x, y = exposure.wcs.world_to_pixel_values(
        result.reference[0] + v["ra"] * degrees / np.cos(np.radians(result.reference[1])),
        result.reference[1] + v["dec"] * degrees,
    )
    found = {
        "flux": v["flux"],
        "r": v["rhalf"] / np.sqrt(q),  # circularised -> semi-major
        "n": v["sersic"],
        "ell": 1 - q,
        # from North through East (to the left) -> counter-clockwise from +x
        "theta": (0.5 * np.arctan2(v["e2"], v["e1"]) + np.pi / 2) % np.pi,
        "x": float(x),
        "y": float(y),
    }
    for name, expected in EXACT.items():
        assert found[name] == pytest.approx(expected, abs=TOLERANCE[name]), (name, found)
