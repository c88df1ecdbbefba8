"""The PSF of a detector, as a mixture of Gaussians, from many of its stars."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table
from tqdm import tqdm

from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from psfmix.fit import from_array
from psfmix.model import to_free, to_raw
from psfmix.stamps import Stamps, first_guess, reason
from psfmix.starclip import ACCURACY, clip_pixels, errors_of, judge, own_errors
from psfmix.starfit import minimise, normalised, place, revived
from psfmix.starmodel import Field, Problem, evaluate, free_at, with_weight
from psfmix.starstack import PIXEL, robust_weights, stack, start_mixture

log = logging.getLogger("psfmix.stars")

ORDERS = (0, 1, 2)
# Rounds of clipping and fitting; steps in each. From the second number on stars do not come back.
_ROUNDS, _SETTLED, _STEPS = 10, 5, 15
# Of the constant PSF that a varying one starts from.
_COARSE_ROUNDS = 4
_LAST_STEPS = 60
_COARSE_ACCURACY = 0.1
# Of a background that is held, relative to the error of the best pixel.
_HELD = 1e-4


@dataclass(frozen=True)
class StarFit:
    """A mixture fitted to stars.

    At every position the amplitudes sum to 1 and the mean of the centres, weighted with the
    amplitudes, is 0: a star's centre is the centroid of its light, its flux all of the mixture.

    Attributes
    ----------
    coef : array (nterm, ngauss, 6)
        Polynomial coefficients of the free parameters.
    field : Field
    floor : float
        Smallest sigma, native px.
    signed, includes_pixel : bool
    stamps : Stamps
    table : astropy Table
        One row per star; docs/psf_mixtures.md lists the columns.
    models, sigma : arrays (nstar, ny, nx)
        What the stamps should look like, and the noise; infinite where unusable.
    used : bool array (nstar, ny, nx)
        Pixels that count.
    fwhm : float
        Of the stack of all stars, native px, with the pixel.
    """

    coef: np.ndarray
    field: Field
    floor: float
    signed: bool
    includes_pixel: bool
    stamps: Stamps
    table: Table
    models: np.ndarray
    sigma: np.ndarray
    used: np.ndarray
    fwhm: float

    @property
    def accepted(self):
        """Bool array (nstar,)."""
        return np.asarray(self.table["flag"]) == 0

    def at(self, x, y):
        """Components (ngauss, 6) at a detector position: amp, x, y, Cxx, Cyy, Cxy."""
        terms = self.field.terms(np.array([[x, y]]))[0]
        return normalised(to_raw(free_at(self.coef, terms), self.floor, self.signed))[0]

    def stacks(self):
        """Mean stamp of the stars that were used and of their models, and its standard error.

        Scaled to flux 1, without clipped pixels; see `psfmix.starstack.stack`.

        Returns
        -------
        star, model, sigma : arrays (n, n)
        """
        table, stars = self.table, self.accepted
        center = np.stack([table["x"], table["y"]], axis=-1) - self.stamps.corners
        layout = (center, np.asarray(table["flux"]), np.asarray(table["background"]), stars)
        ivar = np.where(self.used, self.sigma**-2.0, 0.0)
        star, sigma = stack(self.stamps.images, ivar, *layout, robust=False)
        return star, stack(self.models, ivar, *layout, robust=False)[0], sigma

    @property
    def residual(self):
        """Largest |star - model| of the stacks, of the model's peak."""
        star, model, _ = self.stacks()
        return float(np.nanmax(np.abs(star - model)) / np.nanmax(model))

    @property
    def ee_error(self):
        """Largest |flux within 1-5 px| of star less model, in the stacks, of the mixture's sum."""
        star, model, _ = self.stacks()
        y, x = np.indices(star.shape) - (star.shape[0] - 1) / 2
        inside = [np.hypot(x, y) <= radius for radius in (1, 2, 3, 4, 5)]
        return float(max(abs(np.nansum((star - model)[circle])) for circle in inside))

    def model(self, nodes=None):
        """The store's model: at the middle of the detector, or at nodes (nloc, 2)."""
        if self.field.order == 0:
            nodes = None
        places = np.array([self.field.middle]) if nodes is None else np.asarray(nodes, float)
        return PSFModel(
            parameters=np.stack([from_array(self.at(*xy)) for xy in places]),
            locations=None if nodes is None else places,
            includes_pixel=self.includes_pixel,
            amplitude_sum="unit",
        )


def fit_stars(
    stamps,
    *,
    ngauss=4,
    signed=False,
    order=0,
    includes_pixel=False,
    clip=5.0,
    min_snr=20.0,
    background_sigma=None,
    progress=False,
):
    """One mixture for all stars of a detector, with outliers left out.

    Parameters
    ----------
    stamps : Stamps
    ngauss : int
        Number of components.
    signed : bool
        Let amplitudes be negative.
    order : int
        Degree of the polynomials of the detector position that every parameter of the mixture
        follows: 0 (constant), 1 or 2.
    includes_pixel : bool
        Keep the native pixel in the mixture. Otherwise the model is integrated over the pixel, and
        what is returned is the PSF without it.
    clip : float
        Standard deviations beyond which pixels are left out.
    min_snr : float
        Stars whose flux is less than so many standard errors are left out.
    background_sigma : float, optional
        Standard deviation of backgrounds about 0, image unit; 0 holds them there. Default: free.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    StarFit

    Raises
    ------
    InputError
        No usable star, or too few for the order or for the number of Gaussians.
    """
    _check(stamps, ngauss, order, clip, min_snr, background_sigma)
    center, flux, background = first_guess(stamps)
    usable = (stamps.flags == 0) & (flux > 0)
    if not usable.any():
        raise InputError(f"none of the {len(stamps)} stars is usable: {counts(stamps.flags)}")
    start = start_mixture(stamps, center, flux, background, usable, ngauss, signed, includes_pixel)
    field = Field(0, *_extent(stamps))
    problem, state = _problem(
        stamps, start, field, center, signed, includes_pixel, background_sigma
    )
    stars = np.flatnonzero(usable)
    robust = robust_weights(problem, state, start.fwhm)
    state = place(with_weight(problem, robust), state, stars)
    ivar = problem.weight
    fixed = np.array(stamps.flags)
    rounds = _ROUNDS + (_COARSE_ROUNDS if order else 0)
    with tqdm(total=rounds, desc="stars", disable=not progress) as bar:
        loop = _Loop(ivar, stamps, center, fixed, start.fwhm, clip, min_snr, bar)
        problem = with_weight(problem, robust)
        if order:  # a constant PSF is wrong by the variation that is still to be fitted
            loop.accuracy = _COARSE_ACCURACY
        count = _COARSE_ROUNDS if order else _ROUNDS
        problem, state, verdict = loop.run(problem, state, stars, count)
        if order:
            stars = np.flatnonzero(verdict.flags == 0)
            field = field._replace(order=order)
            _enough(field, len(stars))
            problem = replace(problem, terms=field.terms(_places(stamps, state.center)))
            coef = np.concatenate([state.coef, np.zeros((field.nterm - 1, *state.coef.shape[1:]))])
            state = evaluate(problem, coef, state.center)
            loop.accuracy = ACCURACY
            problem, state, verdict = loop.run(problem, state, stars)
            _enough(field, np.count_nonzero(verdict.flags == 0))
    return _finish(stamps, problem, state, verdict, loop, field, includes_pixel)


class _Loop:
    """Rounds of: errors, clipped pixels, rejected stars, fit."""

    def __init__(self, ivar, stamps, start, fixed, fwhm, clip, min_snr, bar):
        self.ivar, self.stamps, self.start, self.fixed = ivar, stamps, start, fixed
        self.fwhm, self.clip, self.min_snr, self.bar = fwhm, clip, min_snr, bar
        self.errors = self.good = None
        self.accuracy = ACCURACY

    def weigh(self, problem, state, stars):
        """The problem with the weights that its residuals deserve."""
        errors = errors_of(
            problem, state, self.ivar, self.stamps.gain, stars, self.fwhm, self.accuracy
        )
        good = clip_pixels(problem, state, errors, self.clip, self.stamps.shape)
        self.errors, self.good = errors, good
        return with_weight(problem, np.where(good, errors.weight, 0.0))

    def revive(self, problem, state, stars, steps):
        """The better of a state and of the one that its vanished components lead to."""
        coef, dead = revived(state.coef, problem.signed)
        if not dead:
            return state
        trial = evaluate(problem, coef, state.center, stars, state)
        trial = minimise(problem, trial, stars, steps)
        return trial if trial.cost[stars].sum() < state.cost[stars].sum() else state

    def run(self, problem, state, stars, rounds=_ROUNDS):
        """Until pixels and stars stay the same; returns problem, state and verdict."""
        before, flags = None, None
        for round_ in range(rounds):
            problem = self.weigh(problem, state, stars)
            verdict = judge(
                problem, state, self.errors, self.good, self.start, self.fixed, stars, self.fwhm,
                self.min_snr,
            )  # fmt: skip
            if flags is not None and round_ >= _SETTLED:
                verdict = verdict._replace(flags=verdict.flags | flags)
            flags = verdict.flags
            stars = np.flatnonzero(flags == 0)
            if not len(stars):
                raise InputError(f"all of the {len(flags)} stars were rejected: {counts(flags)}")
            now = (flags.tobytes(), self.good[stars].tobytes())
            last = now == before or round_ == rounds - 1
            state = minimise(problem, state, stars, _LAST_STEPS if last else _STEPS)
            state = self.revive(problem, state, stars, _LAST_STEPS if last else _STEPS)
            others = np.flatnonzero((self.fixed == 0) & (flags != 0))
            state = place(problem, state, others)
            self.bar.update()
            if last:
                break
            before = now
        return problem, state, verdict


def counts(flags):
    """How many stars were left out and why, in words."""
    flags = np.asarray(flags)
    words = [
        f"{np.count_nonzero(flags == flag)} {reason(flag) or 'without light'}"
        for flag in np.unique(flags)
    ]
    return ", ".join(words)


def _check(stamps, ngauss, order, clip, min_snr, background_sigma):
    if order not in ORDERS:
        raise InputError(f"the order of the PSF's polynomial is {order}; expected 0, 1 or 2")
    if background_sigma is not None and not 0 <= background_sigma < np.inf:
        raise InputError(f"background_sigma is {background_sigma}; expected 0 or a positive number")
    if not clip > 0 or not min_snr >= 0:
        raise InputError(f"clip {clip} and signal-to-noise {min_snr} of stars must be positive")
    if stamps.flags.all():
        raise InputError(f"none of the {len(stamps)} stars is usable: {counts(stamps.flags)}")
    pixels = np.count_nonzero(stamps.ivar[stamps.flags == 0])
    if ngauss < 1 or 6 * ngauss > pixels:
        raise InputError(
            f"{ngauss} Gaussians of 6 parameters each for {pixels} usable pixels of stars"
        )
    _enough(Field(order, (0, 0), (1, 1)), np.count_nonzero(stamps.flags == 0))


def _enough(field, count):
    """Raise InputError when stars are fewer than the terms of the polynomial."""
    if count < field.nterm:
        raise InputError(
            f"{count} usable stars for polynomials of order {field.order}, which have "
            f"{field.nterm} terms; expected at least {field.nterm} stars"
        )
    if field.order and count < 3 * field.nterm:
        log.warning(
            "%d stars for polynomials of %d terms: few; a lower order may be better",
            count, field.nterm,
        )  # fmt: skip


def _extent(stamps):
    """Middle and half size of the detector."""
    if stamps.detector is not None:
        low, high = np.zeros(2), np.asarray(stamps.detector, float) - 1
    else:
        places = stamps.positions[stamps.flags == 0]
        low, high = places.min(axis=0), places.max(axis=0)
    half = np.maximum((high - low) / 2, 0.5)
    return tuple((low + high) / 2), tuple(half)


def _places(stamps, center):
    """Detector positions of the stars as fitted."""
    return stamps.corners + center


def _problem(stamps, start, field, center, signed, includes_pixel, background_sigma):
    """Problem and first state."""
    ny, nx = stamps.shape
    gy, gx = np.indices((ny, nx))
    nstar = len(stamps)
    # held: far below what one pixel says
    tiny = _HELD / np.sqrt(max(stamps.ivar.max(), 1e-300))
    problem = Problem(
        images=stamps.images.reshape(nstar, -1),
        weight=stamps.ivar.reshape(nstar, -1),
        x=gx.ravel().astype(float),
        y=gy.ravel().astype(float),
        terms=field.terms(_places(stamps, center)),
        floor=start.floor,
        signed=signed,
        pixel_variance=0.0 if includes_pixel else PIXEL,
        widest=0.35 * min(ny, nx),
        background_ivar=0.0 if background_sigma is None else max(background_sigma, tiny) ** -2,
    )
    coef = to_free(start.raw, start.floor, signed)[None]
    return problem, evaluate(problem, coef, center)


def _finish(stamps, problem, state, verdict, loop, field, includes_pixel):
    """The result, with the convention applied to fluxes and centres."""
    nstar = len(stamps)
    flags = verdict.flags
    rows = {
        name: np.full(nstar, np.nan)
        for name in (
            "flux", "flux_err", "x", "y", "x_err", "y_err", "background", "background_err",
            "chi2", "npix", "snr",
        )
    }  # fmt: skip
    for k in np.flatnonzero(loop.fixed == 0):
        raw = to_raw(free_at(state.coef, problem.terms[k]), problem.floor, problem.signed)
        _, total, shift = normalised(raw)
        if not (np.isfinite(state.cost[k]) and total != 0):
            continue
        ex, ey, ef, eb = own_errors(problem, state, loop.errors, k)
        rows["flux"][k], rows["flux_err"][k] = total * state.flux[k], abs(total) * ef
        rows["x"][k], rows["y"][k] = stamps.corners[k] + state.center[k] + shift
        rows["x_err"][k], rows["y_err"][k] = ex, ey
        rows["background"][k], rows["background_err"][k] = state.background[k], eb
        good = loop.good[k]
        residual = problem.images[k] - state.model[k]
        rows["chi2"][k] = np.sum((residual[good] / loop.errors.noise[k][good]) ** 2)
        rows["npix"][k] = good.sum()
        rows["snr"][k] = state.flux[k] / ef if ef > 0 else np.nan
    table = Table(
        {
            "star": np.arange(nstar),
            "x_in": stamps.positions[:, 0],
            "y_in": stamps.positions[:, 1],
            **rows,
            "core_chi2": verdict.chi2,
            "size_excess": verdict.shape[:, 0],
            "e1_excess": verdict.shape[:, 1],
            "e2_excess": verdict.shape[:, 2],
            "flag": flags,
            "reason": [reason(flag) for flag in flags],
        },
        units={
            **dict.fromkeys(("x_in", "y_in", "x", "y", "x_err", "y_err"), "pixel"),
        },
    )
    shape = (nstar, *stamps.shape)
    accepted = np.count_nonzero(flags == 0)
    log.info("%d of %d stars used; %s", accepted, nstar, counts(flags[flags != 0]) or "all")
    return StarFit(
        coef=state.coef,
        field=field,
        floor=problem.floor,
        signed=problem.signed,
        includes_pixel=includes_pixel,
        stamps=stamps,
        table=table,
        models=state.model.reshape(shape),
        sigma=loop.errors.noise.reshape(shape),
        used=loop.good.reshape(shape),
        fwhm=loop.fwhm,
    )
