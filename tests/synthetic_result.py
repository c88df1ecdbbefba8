"""A made-up PatchResult with the structure of a real one, for the tests of the products."""

import numpy as np
from astropy.wcs import WCS

from jaxpho.fit.result import PatchResult

REFERENCE = (150.0, 2.0)
# (name, band, arcsec per pixel, rotation deg)
EXPOSURES = (("g/1", "g", 0.3, 10.0), ("g/2", "g", 0.3, -75.0), ("r/1", "r", 0.2, 30.0))
SIZE = (70, 90)  # ny, nx
SKY_SIGMA = 0.5


def make_wcs(scale, angle, crpix):
    """Tangent-plane WCS centred on REFERENCE; East to the left at angle 0."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = REFERENCE
    wcs.wcs.crpix = crpix
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    wcs.wcs.cd = scale / 3600.0 * np.array([[-c, s], [s, c]])
    return wcs


def make_labels(bands=("g", "r")):
    """A Sersic source, a point source and a bulge + disk, all but one parameter free."""
    labels = []
    for s, fluxes, shapes in (
        (0, ["flux"], ["rhalf", "sersic", "e1", "e2"]),
        (1, ["flux"], []),
        (2, ["flux_disk", "flux_bulge"], [k + p for p in ("_disk", "_bulge")
                                          for k in ("rhalf", "sersic", "e1", "e2")]),
    ):  # fmt: skip
        labels += [(s, f, b) for f in fluxes for b in bands]
        labels += [(s, "ra", ""), (s, "dec", "")] + [(s, k, "") for k in shapes]
    return [label for label in labels if label != (2, "sersic_disk", "")]


VALUES = {
    "flux": 900.0, "flux_disk": 700.0, "flux_bulge": 250.0, "rhalf": 1.2, "sersic": 2.0,
    "e1": 0.2, "e2": -0.12, "rhalf_disk": 1.8, "e1_disk": -0.1, "e2_disk": 0.25,
    "rhalf_bulge": 0.4, "sersic_bulge": 3.0, "e1_bulge": 0.05, "e2_bulge": 0.02,
}  # fmt: skip
POSITIONS = ((-3.0, 2.0), (4.5, 5.0), (2.0, -4.0))


def make_result(rng, draws=0, pixels=True):
    """PatchResult with a random positive definite covariance and simple round-blob pixels."""
    labels = make_labels()
    theta = np.array([
        POSITIONS[s][0] if n == "ra" else POSITIONS[s][1] if n == "dec" else VALUES[n]
        for s, n, _ in labels
    ])  # fmt: skip
    scale = np.array([5.0 if n.startswith("flux") else 0.01 for _, n, _ in labels])
    mix = rng.normal(size=(len(labels), len(labels) + 5)) / np.sqrt(len(labels))
    covariance = (mix @ mix.T) * np.outer(scale, scale)
    sampled = {}
    if draws:
        sampled["samples"] = rng.multivariate_normal(theta, covariance, size=(4, draws))
        sampled["warmup"] = rng.multivariate_normal(theta, covariance, size=(4, 25))
        sampled["statistics"] = make_statistics(rng, (4, draws))
        sampled["warmup_statistics"] = make_statistics(rng, (4, 25))
        sampled["mass_matrix_initial"] = np.linalg.inv(covariance)
        sampled["mass_matrix_final"] = np.linalg.inv(1.5 * covariance)
    names = [e[0] for e in EXPOSURES]
    bound = np.zeros(len(labels), bool)
    bound[labels.index((2, "sersic_bulge", ""))] = True
    return PatchResult(
        patch_id=3, source_ids=["101", "star-7", "2066"], types=["sersic", "point", "bulge_disk"],
        bands=["g", "r"], unit="nJy", reference=REFERENCE, labels=labels, theta=theta,
        covariance=covariance, fixed={(2, "sersic_disk", ""): 1.0}, **sampled,
        start=theta + 0.1 * scale, bounds=np.stack([theta - 9 * scale, theta + 9 * scale], -1),
        astrometry={name: make_astrometry(len(POSITIONS), s) for name, _, s, _ in EXPOSURES},
        diagnostics={"rhat": np.full(len(labels), 1.003), "ess": np.linspace(300, 900, len(labels)),
                     "divergences": 0, "step_size": 0.4},
        at_bound=bound, flags=np.array([0, 0, 1]), chi2=np.array([6300.0, 6250.0, 6280.0]),
        npix=np.array([6290, 6290, 6290]), source_chi2=np.array([90.0, 50.0, 120.0]),
        source_npix=np.array([92, 55, 118]), source_nexp=np.array([3, 3, 3]),
        exposures=names, exposure_bands=[e[1] for e in EXPOSURES],
        pixels=make_pixels(rng) if pixels else {}, messages=["fitted"], seconds={"map": 1.5},
    )  # fmt: skip


def make_statistics(rng, shape):
    """Of every draw, as the sampler hands them out."""
    potential = rng.normal(size=shape)
    return {
        "step_size": np.full(shape, 0.4), "diverging": rng.random(shape) < 0.02,
        "n_steps": rng.integers(1, 8, shape), "accept": rng.random(shape),
        "energy": potential + 10, "potential": potential,
    }  # fmt: skip


def make_astrometry(n_source, scale):
    """Of one exposure, with plausible numbers."""
    d = np.tile(np.diag([-1 / scale, 1 / scale]), (n_source, 1, 1))
    cosine = np.cos(np.deg2rad(REFERENCE[1]))
    crval = np.array(POSITIONS)[:n_source] / 3600 / np.array([cosine, 1.0])
    crpix = 40.0 + np.einsum("sij,sj->si", d, np.array(POSITIONS)[:n_source])
    return {"D": d, "CW": 3600 * d @ np.diag([cosine, 1.0]), "crpix": crpix, "crval": crval}


def make_wcses():
    """Exposure name -> WCS."""
    return {n: make_wcs(s, a, (46 + 3 * i, 36)) for i, (n, _, s, a) in enumerate(EXPOSURES)}


def make_pixels(rng):
    """Blobs at the sources, white noise, a masked column."""
    out = {}
    for name, wcs in make_wcses().items():
        y, x = (a.ravel() for a in np.indices(SIZE))
        model = np.zeros(len(x))
        scale = np.sqrt(abs(np.linalg.det(wcs.wcs.cd))) * 3600
        for (dra, ddec), flux, r in zip(POSITIONS, (900, 900, 950), (1.2, 0.5, 1.5), strict=True):
            ra = REFERENCE[0] + dra / 3600 / np.cos(np.deg2rad(REFERENCE[1]))
            x0, y0 = wcs.world_to_pixel_values(ra, REFERENCE[1] + ddec / 3600)
            s = (r + 0.3) / scale
            blob = np.exp(-np.hypot(x - x0, y - y0) / s * 1.68)
            model += flux * blob / blob.sum()
        ierr = np.full(len(x), 1 / SKY_SIGMA)
        ierr[x == 20] = 0
        data = model + rng.normal(0, SKY_SIGMA, len(x))
        out[name] = {"x": x, "y": y, "data": data.astype("f4"), "ierr": ierr.astype("f4"),
                     "model": model.astype("f4")}  # fmt: skip
    return out
