"""A small field in forcepho's formats, made here: two bands, rotations, parity, SIP, ragged PSFs.

Everything is drawn from a fixed seed; the images are noise and a few Gaussian blobs, for what is
compared is the arithmetic of two codes, not the truth.
"""

import numpy as np
import yaml
from astropy.io import fits
from astropy.wcs import WCS, Sip

from jaxpho.data.metastore import write_meta_store
from jaxpho.data.pixelstore import write_pixel_store
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.data.psfstore import write_psf_store
from jaxpho.data.splinestore import SplineTable, write_spline_table

CENTRE = (150.1, 2.2)
BANDS = ("blue", "red")
RADII = np.array([0.0, 0.015, 0.04, 0.1, 0.3, 0.8])
SHAPES = ("ra", "dec", "q", "pa", "sersic", "rhalf")
NSIDE = (56, 48)
BOUNDS = {
    "n_sig_flux": 5.0,
    "sqrtq_range": [0.4, 1.0],
    "pa_range": [-2.0, 2.0],
    "n_pix": 2,
    "pixscale": 0.03,
    "rhalf_range": [0.03, 0.3],
    "sersic_range": [1.0, 5.0],
}


def case_wcs(scale, angle, shift, mirrored=False, sip=False):
    """A tangent-plane WCS, on request mirrored or with a SIP distortion."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    step = scale / 3600.0
    wcs = WCS(naxis=2)
    suffix = "-SIP" if sip else ""
    wcs.wcs.ctype = [f"RA---TAN{suffix}", f"DEC--TAN{suffix}"]
    wcs.wcs.crval = list(CENTRE)
    wcs.wcs.crpix = [NSIDE[0] / 2 + shift[0], NSIDE[1] / 2 + shift[1]]
    flip = 1.0 if mirrored else -1.0
    wcs.wcs.cd = step * np.array([[flip * c, -s], [flip * s, c]])
    if sip:
        a, b = np.zeros((2, 3, 3))
        a[2, 0], a[1, 1], b[0, 2], b[2, 0] = 3e-5, -1e-5, 2e-5, -2e-5
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def catalog(rows, bands=BANDS):
    """A catalogue HDU list as forcepho has it; rows (id, dra, ddec ["], q, pa, n, rhalf, flux)."""
    names = [(n, "i4") for n in ("id", "source_index", "is_active", "is_valid", "n_iter")]
    names += [("n_patch", "i4"), ("roi", "f4")]
    dtype = names + [(n, "f8") for n in (*SHAPES, *bands)]
    table = np.zeros(len(rows), dtype)
    for out, (number, dra, ddec, *rest) in zip(table, rows, strict=True):
        out["id"] = out["source_index"] = number
        out["ra"] = CENTRE[0] + dra / 3600 / np.cos(np.deg2rad(CENTRE[1]))
        out["dec"] = CENTRE[1] + ddec / 3600
        for name, value in zip((*SHAPES[2:], *bands), rest, strict=True):
            out[name] = value
    hdu = fits.BinTableHDU(table)
    hdu.header["FILTERS"] = ",".join(bands)
    return fits.HDUList([fits.PrimaryHDU(), hdu])


START = [
    (0, -0.3, 0.1, 0.7, 0.4, 2.0, 0.12, 14.0, 22.0),
    (1, 0.25, 0.2, 0.9, -0.8, 1.3, 0.08, 9.0, 6.0),
    (2, 0.1, -0.3, 0.6, 1.3, 3.5, 0.2, 20.0, 31.0),
]
TRUTH = [
    (0, -0.31, 0.11, 0.72, 0.5, 2.2, 0.11, 13.0, 23.0),
    (1, 0.26, 0.19, 0.86, -0.7, 1.5, 0.09, 10.0, 5.5),
    (2, 0.12, -0.31, 0.65, 1.2, 3.3, 0.18, 19.0, 33.0),
]
FIXED = [(3, 0.45, -0.1, 0.8, 0.2, 1.5, 0.1, 7.0, 8.0)]


def spline_table(rng):
    """Smooth amplitudes on a grid, some of them negative; they need not be a Sersic profile."""
    n, r = np.linspace(0.8, 6, 15), np.linspace(0.02, 0.4, 12)
    nn, rr = (a.ravel() for a in np.meshgrid(n, r, indexing="ij"))
    width = 0.5 + 0.25 * nn
    distance = np.log(RADII.clip(0.008))[None, :] - np.log(rr)[:, None]
    amplitudes = np.exp(-0.5 * (distance / width[:, None]) ** 2)
    amplitudes *= (1 + 0.02 * rng.normal(size=len(nn)) / amplitudes.sum(1))[:, None]
    amplitudes /= amplitudes.sum(1, keepdims=True)
    return SplineTable(RADII, nn.astype("f4"), rr, amplitudes, {})


def psf_model(rng, counts, locations=None):
    """A mixture per Sersic radius; ``counts`` Gaussians for each."""
    nloc = 1 if locations is None else len(locations)
    out = np.zeros((nloc, sum(counts)), PSF_DTYPE)
    bins = np.repeat(np.arange(len(counts)), counts)
    size = out.shape[1]
    out["amp"] = rng.uniform(0.1, 0.5, size)
    out["xcr"], out["ycr"] = rng.normal(0, 0.1, (2, size))
    out["Cxx"], out["Cyy"] = rng.uniform(0.7, 4, (2, size))
    out["Cxy"] = rng.uniform(-0.4, 0.4, size)
    out["amp"] *= 1 + 0.1 * np.arange(nloc)[:, None]
    out["sersic_bin"] = bins
    return PSFModel(out, locations)


def write_case(folder, background=True):
    """Write the stores, catalogues and configuration; returns the configuration's path."""
    rng = np.random.default_rng(11)
    headers, pixels = {}, {}
    for b, band in enumerate(BANDS):
        headers[band] = {}
        for e, angle in enumerate((0.0, 33.0, -75.0)):
            wcs = case_wcs(0.03 * (1 + b), angle, (e, -e), mirrored=b == 1, sip=e == 2)
            name = f"visit{e}/{band}_{e}"
            nx, ny = NSIDE
            y, x = np.indices((ny, nx))
            image = rng.normal(0, 0.05, (ny, nx))
            for _, dra, ddec, *rest in TRUTH + FIXED:
                ra = CENTRE[0] + dra / 3600 / np.cos(np.deg2rad(CENTRE[1]))
                x0, y0 = wcs.all_world2pix(ra, CENTRE[1] + ddec / 3600, 0)
                flux = rest[4 + b]
                image += flux / (2 * np.pi * 9) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 18)
            ierr = np.full((ny, nx), 1 / 0.05)
            masked = rng.random((ny, nx)) < 0.02
            image[masked], ierr[masked] = 0.0, 0.0
            header = wcs.to_header(relax=True)
            header["FILTER"], header["EXPID"] = band, name
            header["NAXIS1"], header["NAXIS2"] = nx, ny
            header["TWEAKBKG"] = 0.002 * (e + b) if background else 0.0
            headers[band][name] = header
            attrs = {"counts_to_flux": 1.0, "flux_units": "image"}
            pixels[band, name] = (image.astype("f4"), ierr.astype("f4"), attrs)
    write_meta_store(folder / "meta.json", headers)
    write_pixel_store(folder / "pixels.h5", pixels)
    full, ragged = [3] * len(RADII), [3, 3, 3, 3, 2, 1]
    blue = psf_model(rng, full, np.array([[5.0, 5.0], [50.0, 40.0]]))
    write_psf_store(folder / "psf.h5", "blue", blue, forcepho=True)
    write_psf_store(folder / "psf.h5", "red", psf_model(rng, ragged), forcepho=True)
    write_spline_table(folder / "splines.h5", spline_table(rng))
    for name, rows in (("peaks", START), ("truth", TRUTH), ("fixed", FIXED)):
        catalog(rows).writeto(folder / f"{name}.fits")
    config = {
        "bandlist": list(BANDS),
        "raw_catalog": "peaks.fits",
        "splinedatafile": "splines.h5",
        "psfstorefile": "psf.h5",
        "pixelstorefile": "pixels.h5",
        "metastorefile": "meta.json",
        "tweak_background": "TWEAKBKG" if background else None,
        "bounds_kwargs": BOUNDS,
        "super_pixel_size": 8,
        "nside_full": list(NSIDE),
        "sampling_draws": 256,
        "warmup": [256],
        "full_cov": True,
        "max_treedepth": 9,
        "maxactive_per_patch": 15,
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    return path
