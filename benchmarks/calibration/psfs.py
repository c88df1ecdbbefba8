"""True PSFs as GalSim profiles in pixels, and the mixtures that a fit uses instead.

A mixture is made of an oversampled image of the profile, as `make-psf` makes it.
"""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np

from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from jaxpho.files import replacing
from psfmix.fit import fit_mixture, from_array, to_array
from psfmix.inputs import read_psf_image

OVERSAMPLE, HALF = 4, 30
"""Samples per pixel and half size in pixels of the images that mixtures are made of."""
F200W = "psf_images/jwst_nircam_webbpsf/psf_jwst_oct21_ng4m0_f200w.fits"
# Two positive Gaussians of FWHM 3 pixels: both a truth and its own mixture.
GAUSSIANS = [[0.7, 0.0, 0.0, 1.4, 1.6, 0.1], [0.3, 0.0, 0.0, 5.0, 4.5, 0.0]]
KINDS = ("gaussians", "moffat", "kolmogorov", "f200w")
FWHM = {"gaussians": 3.0, "moffat": 3.0, "kolmogorov": 3.0, "f200w": 2.1}
"""Pixels, roughly: the unit of separations."""
NGAUSS = {"gaussians": 2, "moffat": 4, "kolmogorov": 4, "f200w": 8}
SIGNED = ("f200w",)


def accuracy():
    """Half of GalSim's default tolerances: its images agree with ours to 1e-4 of their peak."""
    import galsim

    return galsim.GSParams(
        folding_threshold=2e-3, maxk_threshold=5e-4, maximum_fft_size=16384
    )  # fmt: skip


@cache
def f200w_image():
    """The stored image of JWST's F200W filter, read from the folder JAXPHO_DATA."""
    folder = os.environ.get("JAXPHO_DATA")
    if not folder:
        raise InputError("the PSF f200w is read from the folder JAXPHO_DATA, which is not set")
    return read_psf_image(Path(folder) / F200W)


def profile(kind):
    """The PSF without the detector's pixel as a GalSim profile, in pixels."""
    import galsim

    params = accuracy()
    if kind == "gaussians":
        return mixture_profile(from_array(np.array(GAUSSIANS)))
    if kind == "moffat":
        return galsim.Moffat(beta=3.0, fwhm=FWHM[kind], gsparams=params).shear(g1=0.03, g2=-0.02)
    if kind == "kolmogorov":
        return galsim.Kolmogorov(fwhm=FWHM[kind], gsparams=params).shear(g1=-0.02, g2=0.03)
    source = f200w_image()
    step = 1.0 / source.oversample
    image = galsim.Image(np.ascontiguousarray(source.image, float), scale=step)
    psf = galsim.InterpolatedImage(
        image, x_interpolant="lanczos15", flux=float(source.image.sum()), use_true_center=True,
        gsparams=params,
    )  # fmt: skip
    # the image is integrated over its own pixels
    return galsim.Convolve(psf, galsim.Deconvolve(galsim.Pixel(step)), gsparams=params)


def mixture_profile(parameters):
    """A mixture of Gaussians as a GalSim profile, in pixels."""
    import galsim

    out = []
    for row in parameters:
        cxx, cyy, cxy = (float(row[k]) for k in ("Cxx", "Cyy", "Cxy"))
        root = np.linalg.cholesky([[cxx, cxy], [cxy, cyy]])
        one = galsim.Gaussian(sigma=1.0, flux=1.0, gsparams=accuracy())
        one = one.transform(*root.ravel()) / np.linalg.det(root) * float(row["amp"])
        out.append(one.shift(float(row["xcr"]), float(row["ycr"])))
    return galsim.Sum(out)


def mixture(kind, folder=None):
    """The mixture of a PSF as a `PSFModel`.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    folder : Path, optional
        Where it is kept: the same mixture serves all data sets.
    """
    if kind == "gaussians":
        return PSFModel(from_array(np.array(GAUSSIANS))[None])
    path = None if folder is None else Path(folder) / f"psf-{kind}-{NGAUSS[kind]}.json"
    if path is not None and path.exists():
        return PSFModel(from_array(np.array(json.loads(path.read_text())))[None])
    if kind == "f200w":
        source = f200w_image()
        image, oversample = source.image, source.oversample
    else:
        size, oversample = 2 * HALF * OVERSAMPLE + 1, OVERSAMPLE
        drawn = profile(kind).drawImage(nx=size, ny=size, scale=1.0 / OVERSAMPLE, dtype=float)
        image = drawn.array
    fit = fit_mixture(
        image, oversample=oversample, ngauss=NGAUSS[kind], signed=kind in SIGNED, normalize="stamp"
    )
    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(to_array(fit.parameters).astype(float).tolist()))
    return PSFModel(fit.parameters[None])
