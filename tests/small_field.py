"""Files of a tiny field (two bands, one with two exposures, a PSF store) and its configuration."""

import numpy as np
import yaml
from astropy.io import fits
from synthetic_result import REFERENCE, make_wcs

from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import write_psf_store

SIZE = 64
SCALE = 0.25  # arcsec per pixel
SIGMA = 1.0
# id, offset from the reference in arcsec, type
SOURCES = (
    ("1", -4.0, -3.0, "sersic"),
    ("2", 5.0, 4.0, "point"),
    ("3", 3.2, 4.0, "sersic"),  # beside 2
)


def position(dra, ddec):
    """(ra, dec) in degrees."""
    return REFERENCE[0] + dra / 3600 / np.cos(np.deg2rad(REFERENCE[1])), REFERENCE[1] + ddec / 3600


def write_field(folder, sources=SOURCES, size=SIZE, **extra):
    """Write images, PSF store, catalogue and configuration; returns the configuration's path."""
    rng = np.random.default_rng(3)
    for name, angle in (("g1", 0.0), ("g2", 40.0), ("r1", -20.0)):
        wcs = make_wcs(SCALE, angle, ((size + 1) / 2, (size + 1) / 2))
        data = rng.normal(0, SIGMA, (size, size))
        y, x = np.indices(data.shape)
        for _, dra, ddec, _ in SOURCES:
            x0, y0 = wcs.world_to_pixel_values(*position(dra, ddec))
            data += 60 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * 2.0**2))
        header = wcs.to_header()
        header["BUNIT"] = "nJy"
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(data.astype("f4"), header, "SCI")]
        hdus.append(fits.ImageHDU(np.full(data.shape, SIGMA, "f4"), header, "ERR"))
        fits.HDUList(hdus).writeto(folder / f"{name}.fits")
    psf = np.zeros((1, 2), PSF_DTYPE)
    psf["amp"], psf["Cxx"], psf["Cyy"], psf["sersic_bin"] = [0.7, 0.3], [1.5, 6], [1.5, 6], -1
    for band in ("g", "r"):
        write_psf_store(folder / "psf.h5", band, PSFModel(psf))
    lines = ["id,ra,dec,type"]
    for name, dra, ddec, kind in sources:
        ra, dec = position(dra, ddec)
        lines.append(f"{name},{ra:.8f},{dec:.8f},{kind}")
    (folder / "peaks.csv").write_text("\n".join(lines) + "\n")
    common = {"science": "SCI", "error": "ERR", "psf": {"store": "psf.h5"}}
    config = {
        "output": "run",
        "bands": ["g", "r"],
        "images": [
            {"band": "g", "files": "g*.fits", **common},
            {"band": "r", "files": "r1.fits", **common},
        ],
        "peaks": {"file": "peaks.csv"},
        "sample": {"method": "none"},
        "engine": {"workers": 0, "programs": "none"},
        "patches": {"min_radius": 1.0, "max_radius": 1.6},
        **extra,
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path
