"""Small random patches with everything in them, and an independent numpy model of the same sky.

`make` draws exposures with rotated, flipped and distorted local maps, PSF mixtures that differ
from source to source, masked pixels and sources of any types. `oracle_model` renders them in
float64 with dense linear algebra: it shares no code with `jaxpho.core` beyond the list of source
types, and serves as the reference of the tests.
"""

from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebval

from jaxpho.core.patch import Patch
from jaxpho.core.scene import NUISANCE, POINT_ROW, ROW, Mixture, Scene
from jaxpho.core.sersic import load_mixture
from jaxpho.core.sources import SOURCE_TYPES, base_name
from jaxpho.data.packing import PSF_FIELDS, Astrometry, build_patch
from jaxpho.data.tiles import TileSet, cut_tiles

PSF_DTYPE = np.dtype([(name, "f4") for name in PSF_FIELDS] + [("sersic_bin", "i4")])
COS_DEC = np.cos(np.radians(35.0))
DEFAULT = {"rhalf": 0.3, "sersic": 2.0, "e1": 0.1, "e2": -0.15}
NUISANCE_VALUES = (0.01, -0.02, 1.03, 0.4, 0.3, -0.2)
NO_NUISANCE = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)


class Synthetic(NamedTuple):
    """A packed patch, its scene, and the host-side numbers it was made from.

    ``labels`` names the entries of ``theta``: (source index or ("exposure", e), name, band).
    ``table`` holds the mixture's coefficients of ln sigma and amplitude in float64.
    """

    patch: Patch
    blocks: list
    scene: Scene
    mixture: Mixture
    table: tuple
    theta: np.ndarray
    labels: list
    types: tuple
    exposure_band: np.ndarray
    tiles: list
    astrometry: Astrometry
    psf: list
    gain: np.ndarray
    pixel_term: np.ndarray

    def pack(self, dtype=np.float32, **kwargs):
        """The same exposures packed in another way."""
        patch, blocks = build_patch(
            self.tiles,
            self.exposure_band,
            self.astrometry,
            self.psf,
            n_radii=self.mixture.log_sigma.shape[1],
            gain=self.gain,
            pixel_term=self.pixel_term,
            dtype=dtype,
            **kwargs,
        )
        scene = pad_scene(self.scene, patch.n_exposures)
        return self._replace(patch=patch, blocks=blocks, scene=scene)

    def index(self, owner, name, band=None):
        """Entry of ``theta``."""
        return self.labels.index((owner, name, band))

    def kinds(self):
        """Kind of parameter of every entry of ``theta`` ("flux", "ra", ..., "sky_x")."""
        return [base_name(name) if name not in NUISANCE else name for _, name, _ in self.labels]

    def flat(self, per_block):
        """Values [M, N] on the pixels of the tiles in use, exposure by exposure."""
        out = []
        for block, tiles in zip(self.blocks, self.tiles, strict=True):
            values = np.asarray(per_block)[block].reshape(-1)
            out.append(values[: tiles.data.size].reshape(tiles.data.shape))
        return out


def make(
    seed=0,
    types=("sersic", "point", "bulge_disk", "sersic_point", "exp", "dev"),
    n_bands=2,
    exposures_per_band=2,
    shape=(24, 21),
    spread=0.8,
    scale=0.1,
    psf_sigma=1.1,
    n_psf=2,
    flux=300.0,
    nuisances=True,
    mixture="k8",
    origin=(0, 0),
    masked=0.05,
    simulate=True,
    dtype=np.float32,
    **pack,
):
    """Draw a patch.

    Parameters
    ----------
    types : sequence of str
        One per source.
    shape : tuple
        (ny, nx) of every exposure; need not be multiples of 8.
    spread : float
        Sources lie within this many arcsec of the centre, in each coordinate.
    scale : float
        Pixel scale of the first exposure, arcsec; each further one is 7 % coarser.
    nuisances : bool
        Free astrometric offset, flux scale and sky plane of every exposure.
    origin : tuple
        (x, y) of the images' corners, multiples of 8.
    masked : float
        Fraction of masked pixels; their data are set to garbage.
    simulate : bool
        Data from `oracle_model` plus noise (sigma near 1); else noise alone.
    pack
        Further arguments of `build_patch`.
    """
    rng = np.random.default_rng(seed)
    exposure_band = np.repeat(np.arange(n_bands), exposures_per_band)
    n_e, n_s = len(exposure_band), len(types)
    sky = rng.uniform(-spread, spread, (n_s, 2))
    d, crpix = np.zeros((n_e, n_s, 2, 2)), np.zeros((n_e, n_s, 2))
    for e in range(n_e):
        angle, parity = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
        c, s = np.cos(angle), np.sin(angle)
        linear = np.array([[c, -s], [s, c]]) @ np.diag([parity, 1.0]) / (scale * 1.07**e)
        centre = (np.array(shape[::-1]) - 1) / 2 + rng.uniform(-2, 2, 2) + origin
        for k in range(n_s):
            d[e, k] = linear @ (np.eye(2) + 0.01 * rng.standard_normal((2, 2)))
            crpix[e, k] = centre + linear @ sky[k]
    cw = 3600.0 * d * np.array([COS_DEC, 1.0])
    crval = np.broadcast_to(sky / 3600.0 / [COS_DEC, 1.0], (n_e, n_s, 2))
    astrometry = Astrometry(d, cw, crpix, np.array(crval))
    psf = [[draw_psf(rng, n_psf, psf_sigma) for _ in types] for _ in exposure_band]
    with np.load(BytesIO(files("jaxpho.core.tables").joinpath(f"{mixture}.npz").read_bytes())) as f:
        table = (f["log_sigma"], f["amplitude"])
    mixture = load_mixture(mixture, dtype)
    scene, theta, labels = make_scene(types, sky, n_bands, n_e, flux, nuisances, rng)
    images = _blank_tiles(rng, shape, origin, n_e, masked)
    gain = 1.0 + 0.1 * np.arange(n_e)
    pixel_term = np.ones(n_e)
    pixel_term[1::3] = 0.0
    out = Synthetic(
        None, None, scene, mixture, table, theta, labels, tuple(types), exposure_band, images,
        astrometry, psf, gain, pixel_term,
    )  # fmt: skip
    if simulate:
        tiles = []
        for e, t in enumerate(out.tiles):
            data = t.data + oracle_model(out, theta, e)
            tiles.append(t._replace(data=np.where(t.ierr > 0, data, 1e4)))
        out = out._replace(tiles=tiles)
    return out.pack(dtype, **pack)


def draw_psf(rng, n_psf, sigma):
    """A mixture with off-centre, elongated components; one of three or more is negative."""
    p = np.zeros(n_psf, PSF_DTYPE)
    p["amp"] = 0.7 * 0.4 ** np.arange(n_psf)
    if n_psf > 2:
        p["amp"][-1] *= -0.5
    p["amp"] /= p["amp"].sum()
    width = sigma * 1.7 ** np.arange(n_psf) * rng.uniform(0.95, 1.05, n_psf)
    p["xcr"], p["ycr"] = 0.1 * rng.standard_normal((2, n_psf))
    p["Cxx"], p["Cyy"] = width**2 * 1.1, width**2 * 0.95
    p["Cxy"] = 0.1 * width**2
    p["sersic_bin"] = -1
    return p


def make_scene(types, sky, n_bands, n_exposures, flux, nuisances, rng):
    """Scene, theta and labels with every parameter free."""
    theta, labels = [], []
    constants = [0.0, 1.0]
    held = {}

    def add(label, value):
        labels.append(label)
        theta.append(value)

    for s, name in enumerate(types):
        kind = SOURCE_TYPES[name]
        for f in kind.fluxes:
            for b in range(n_bands):
                add((s, f, b), flux * rng.uniform(0.7, 1.3))
        add((s, "ra", None), sky[s, 0] + 0.02)
        add((s, "dec", None), sky[s, 1] - 0.03)
        for parameter in kind.shapes:
            add((s, parameter, None), DEFAULT[base_name(parameter)] * rng.uniform(0.8, 1.2))
        for component in kind.components:
            for parameter, value in component.fixed:
                held[s, parameter + component.suffix] = len(constants)
                constants.append(value)
    if nuisances:
        for e in range(n_exposures):
            for name, value in zip(NUISANCE, NUISANCE_VALUES, strict=True):
                add((("exposure", e), name, None), value * rng.uniform(0.9, 1.1))
    find = {label: i for i, label in enumerate(labels)}
    n = len(theta)

    def entry(s, parameter, band):
        for key in ((s, parameter, band), (s, parameter, None)):
            if key in find:
                return find[key]
        return n + held[s, parameter]

    sersic, point, of_sersic, of_point = [], [], [], []
    for s, name in enumerate(types):
        for c in SOURCE_TYPES[name].components:
            fields = ROW if c.profile == "sersic" else POINT_ROW
            names = [f if f in ("ra", "dec") else f + c.suffix for f in fields]
            rows = [[entry(s, p, b) for p in names] for b in range(n_bands)]
            (sersic if c.profile == "sersic" else point).append(rows)
            (of_sersic if c.profile == "sersic" else of_point).append(s)

    def index(rows, width):
        return np.array(rows, np.int32).reshape(-1, n_bands, width).transpose(1, 0, 2)

    nuisance = [
        [find.get((("exposure", e), k, None), n + (k == "scale")) for k in NUISANCE]
        for e in range(n_exposures)
    ]
    scene = Scene(
        index(sersic, 7),
        index(point, 3),
        np.array(of_sersic, np.int32),
        np.array(of_point, np.int32),
        np.array(nuisance, np.int32),
        np.array(constants),
        np.asarray(COS_DEC),
    )
    return scene, np.array(theta), labels


def pad_scene(scene, n_exposures):
    """The scene for a patch with padded exposures, which take the first one's nuisances."""
    at = np.arange(n_exposures)
    at[at >= len(scene.nuisance_index)] = 0
    return scene._replace(nuisance_index=scene.nuisance_index[at])


def _blank_tiles(rng, shape, origin, n_exposures, masked):
    out = []
    for _ in range(n_exposures):
        sigma = rng.uniform(0.8, 1.2, shape)
        ierr = np.where(rng.uniform(size=shape) < masked, 0.0, 1.0 / sigma)
        # float32 values, so that patches of either precision hold the same numbers
        ierr = ierr.astype(np.float32).astype(float)
        noise = (sigma * rng.standard_normal(shape)).astype(np.float32).astype(float)
        t = cut_tiles(noise, ierr)
        out.append(TileSet(t.x0 + origin[0], t.y0 + origin[1], t.data, t.ierr))
    return out


# ------------------------------------------------------------------ the independent model


def oracle_rows(synthetic, theta, e):
    """(profile, source, values) of every component in one exposure, and its nuisances."""
    known = dict(zip(synthetic.labels, theta, strict=True))
    band = synthetic.exposure_band[e]
    nuisance = [
        known.get((("exposure", e), k, None), v) for k, v in zip(NUISANCE, NO_NUISANCE, strict=True)
    ]
    components = []
    for profile in ("sersic", "point"):
        for s, name in enumerate(synthetic.types):
            for c in SOURCE_TYPES[name].components:
                if c.profile != profile:
                    continue
                held = dict(c.fixed)
                values = {"flux": known[s, "flux" + c.suffix, band]}
                values |= {k: known[s, k, None] for k in ("ra", "dec")}
                if profile == "sersic":
                    for k in ROW[3:]:
                        values[k] = held[k] if k in held else known[s, k + c.suffix, None]
                components.append((profile, s, values))
    return components, nuisance


def oracle_gaussians(synthetic, theta, e):
    """Gaussians [n, 6] (flux, x, y, cxx, cyy, cxy) in the exposure's own pixels, float64."""
    components, (dra, ddec, scale, *_) = oracle_rows(synthetic, theta, e)
    a, out = synthetic.astrometry, []
    table = synthetic.table
    for profile, s, v in components:
        sky = np.array([(v["ra"] + dra) / COS_DEC, v["dec"] + ddec]) / 3600.0
        centre = a.cw[e, s] @ (sky - a.crval[e, s]) + a.crpix[e, s]
        flux = v["flux"] * scale * synthetic.gain[e]
        psf = synthetic.psf[e][s]
        amplitude, covariance = np.ones(1), np.zeros((1, 2, 2))
        if profile == "sersic":
            u = 2.0 * np.log(v["sersic"] / 0.5) / np.log(16.0) - 1.0
            amplitude = chebval(u, table[1])
            variance = (v["rhalf"] * np.exp(chebval(u, table[0]))) ** 2
            # inv(1 - E)(1 + E) for the reduced shear matrix E of the ellipse, in (E, N)
            shear = np.array([[-v["e1"], v["e2"]], [v["e2"], v["e1"]]])
            ellipse = np.linalg.solve(np.eye(2) - shear, np.eye(2) + shear)
            covariance = variance[:, None, None] * (a.d[e, s] @ ellipse @ a.d[e, s].T)
        for k in range(len(psf)):
            p = {name: float(psf[name][k]) for name in PSF_FIELDS}
            c = covariance + np.array([[p["Cxx"], p["Cxy"]], [p["Cxy"], p["Cyy"]]])
            for weight, m in zip(amplitude, c, strict=True):
                out.append(
                    [flux * weight * p["amp"], centre[0] + p["xcr"], centre[1] + p["ycr"],
                     m[0, 0], m[1, 1], m[0, 1]]
                )  # fmt: skip
    return np.array(out)


def oracle_values(gaussians, x, y, mode, pixel_term=1.0):
    """Sum of pixel-integrated Gaussians [n, 6] at pixels x, y [k], by the textbook formula."""
    d = np.stack([np.ravel(x), np.ravel(y)]) - gaussians[:, 1:3, None]
    c = gaussians[:, [[3, 5], [5, 4]]]
    if mode in ("covariance", "fourth", "sixth"):
        c = c + np.eye(2) * pixel_term / 12.0
    inverse = np.linalg.inv(c)
    v = inverse @ d
    value = np.exp(-0.5 * (d * v).sum(1))
    value *= (gaussians[:, 0] * np.sqrt(np.linalg.det(inverse)) / (2 * np.pi))[:, None]
    factor = np.ones_like(value)
    for axis in (0, 1):
        vi, fi = v[:, axis], inverse[:, axis, axis, None]
        if mode in ("second_order", "forcepho"):
            factor += pixel_term * (vi**2 - fi) / 24.0
        if mode in ("fourth", "sixth"):
            factor -= pixel_term * (vi**4 - 6 * vi**2 * fi + 3 * fi**2) / 2880.0
        if mode == "sixth":
            h6 = vi**6 - 15 * vi**4 * fi + 45 * vi**2 * fi**2 - 15 * fi**3
            factor += pixel_term * h6 / 181440.0
    return (value * factor).sum(0).reshape(np.shape(x))


def oracle_model(synthetic, theta, e, mode="fourth"):
    """Model [tiles, 64] of one exposure, sky included."""
    t = synthetic.tiles[e]
    k = np.arange(64)
    x, y = t.x0[:, None] + k // 8, t.y0[:, None] + k % 8
    gaussians = oracle_gaussians(synthetic, theta, e)
    _, (*_, sky, sky_x, sky_y) = oracle_rows(synthetic, theta, e)
    width, height = np.ptp(t.x0) + 8, np.ptp(t.y0) + 8
    half = max(width, height) / 2
    plane = sky + sky_x * (x - t.x0.min() - (width - 1) / 2) / half
    plane = plane + sky_y * (y - t.y0.min() - (height - 1) / 2) / half
    return oracle_values(gaussians, x, y, mode, synthetic.pixel_term[e]) + plane


def oracle_chi2(synthetic, theta, mode="fourth"):
    """chi2 - chi2(0) per exposure, float64: sum (r^2 - d^2)/sigma^2."""
    out = []
    for e, t in enumerate(synthetic.tiles):
        model, good = oracle_model(synthetic, theta, e, mode), t.ierr > 0
        data = np.where(good, t.data, 0.0)
        out.append((t.ierr**2 * ((data - model) ** 2 - data**2)).sum())
    return np.array(out)


def derivative(function, x, steps):
    """Derivatives of ``function`` by five-point central differences, [len(x), ...]."""
    out = []
    for i, h in enumerate(steps):
        total = 0.0
        for k, weight in ((1, 8.0), (-1, -8.0), (2, -1.0), (-2, 1.0)):
            moved = np.array(x, float)
            moved[i] += k * h
            total = total + weight * np.asarray(function(moved))
        out.append(total / (12.0 * h))
    return np.array(out)
