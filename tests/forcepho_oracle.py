"""forcepho's conventions once more, in plain float64 numpy from the packed arrays."""

import h5py
import numpy as np
from scipy.interpolate import RectBivariateSpline


class Amplitudes:
    """Amplitudes of the Sersic mixture from a table file, by scipy."""

    def __init__(self, path):
        with h5py.File(path) as f:
            n, r, table = (f[k][()].astype(float) for k in ("nsersic", "rh", "amplitudes"))
            self.radii = f["radii"][()]
        grid = np.unique(n), np.unique(r)
        order = np.lexsort((r, n))
        self.splines = [
            RectBivariateSpline(*grid, a[order].reshape(len(grid[0]), -1)) for a in table.T
        ]

    def __call__(self, n, rhalf):
        return np.array([s.ev(n, rhalf) for s in self.splines])


def model(a, params, amplitudes, cut=36.0, gain=None):
    """Model of every pixel [npix] from packed arrays and a parameter vector."""
    n_e, n_s = a["D"].shape[:2]
    n_b = len(a["band_N"])
    band = np.repeat(np.arange(n_b), a["band_N"])
    out = np.zeros(len(a["xpix"]))
    p = np.asarray(params, float).reshape(n_s, n_b + 6)
    gain = a["G"] if gain is None else gain
    for e in range(n_e):
        at = slice(a["exposure_start"][e], a["exposure_start"][e] + a["exposure_N"][e])
        x, y = a["xpix"][at].astype(float), a["ypix"][at].astype(float)
        # the kernels take the first source's PSF for all
        first, count = a["psfgauss_start"][e], a["n_psf_per_source"][band[e]]
        for s in range(n_s):
            flux = p[s, band[e]] * gain[e]
            ra, dec, q, pa, n, rhalf = p[s, n_b:]
            c, sn = np.cos(pa), np.sin(pa)
            t = a["D"][e, s].astype(float) @ np.array([[c, -sn], [sn, c]]) @ np.diag([1 / q, q])
            centre = a["CW"][e, s].astype(float) @ (np.array([ra, dec]) - a["crval"][e, s])
            centre = centre + a["crpix"][e, s]
            amp = amplitudes(n, rhalf)
            for k in range(first, first + count):
                b = a["psfgauss_sersic_bin"][k]
                cxx, cyy, cxy = (float(a[f"psfgauss_C{i}"][k]) for i in ("xx", "yy", "xy"))
                cov = amplitudes.radii[b] ** 2 * t @ t.T + np.array([[cxx, cxy], [cxy, cyy]])
                f = np.linalg.inv(cov)
                d = np.stack(
                    [x - centre[0] - a["psfgauss_xcen"][k], y - centre[1] - a["psfgauss_ycen"][k]]
                )
                v = f @ d
                square = (d * v).sum(0)
                value = np.exp(-square / 2) * (1 + ((v**2).sum(0) - np.trace(f)) / 24)
                norm = flux * amp[b] * a["psfgauss_amp"][k] * np.sqrt(np.linalg.det(f))
                out[at] += np.where(square > cut, 0.0, norm / (2 * np.pi) * value)
    return out


def chi2(a, params, amplitudes, **options):
    """chi2 per band, sum of (r^2 - d^2)/sigma^2."""
    r = a["data"] - model(a, params, amplitudes, **options)
    terms = (r**2 - a["data"].astype(float) ** 2) * a["ierr"].astype(float) ** 2
    per_exposure = np.add.reduceat(terms, a["exposure_start"])
    return np.add.reduceat(per_exposure, a["band_start"].astype(int))


def gradient(a, params, amplitudes, steps, **options):
    """d(-chi2/2)/d params, by fourth-order differences."""
    out = np.zeros(len(params))
    for i, h in enumerate(steps):
        values = []
        for k in (-2, -1, 1, 2):
            moved = np.array(params, float)
            moved[i] += k * h
            values.append(-0.5 * chi2(a, moved, amplitudes, **options).sum())
        out[i] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return out
