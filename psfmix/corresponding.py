"""Mixtures of a varying PSF whose components correspond, so that what lies between is right too.

A mixture is nearly degenerate: components trade light for width, and images that hardly differ are
described by parameters that differ much. Fitted one by one, even when each starts from its
neighbour, such mixtures are good where they were fitted and bad between. Here every position is
tied to one mixture, first to the middle's under an affine map (a PSF that grows or leans needs no
more), then to a polynomial of the position through the departures from that map, more and more
loosely; the tie that describes positions and left-out positions best is kept.
"""

import logging

import numpy as np
from scipy.optimize import least_squares
from tqdm import tqdm

from jaxpho.data.psfmodel import PSFModel
from jaxpho.errors import InputError
from psfmix.fit import build_targets, check_size, finish, floor_of, from_array, to_array
from psfmix.interior import interior_positions
from psfmix.lm import Options, Prior, State, minimise
from psfmix.model import AMP, CXX, CXY, CYY, X, Y, densities, to_free
from psfmix.search import polish, search, worst_error

log = logging.getLogger("psfmix.corresponding")

# Strength of the tie: departures of 1 in logarithms, or of a component's sigma, cost this many
# times what the middle's mixture leaves.
_TIES = (100.0, 10.0, 1.0)
# A looser tie must lower the largest error to this part, or it is the last that is tried.
_GAIN = 0.98
_STEPS, _AFFINE_STEPS = 40, 15
# Order of the polynomials, and positions from which on they have it.
_ORDERS = ((2, 9), (1, 4), (0, 1))


def fit_corresponding(
    images, places, *, ngauss=4, signed=False, includes_pixel=False, normalize="unit", floor=None,
    max_steps=150, progress=False, centers=None, **layout,
):  # fmt: skip
    """Mixtures of images at several positions, components in correspondence.

    Parameters
    ----------
    images : list of array (ny, nx)
    places : array (nloc, 2)
        x, y of each image, in any unit.
    ngauss, signed, includes_pixel, normalize, floor, max_steps, **layout
        See `psfmix.fit.fit_mixture`.
    progress : bool
        Show a progress bar on standard error.
    centers : list of (x, y), optional
        Each image's reference point, as ``center`` of `psfmix.fit.fit_mixture`.

    Returns
    -------
    list of MixtureFit
        In the order of the images.

    Raises
    ------
    InputError
        An image or an option cannot be used.
    """
    layout |= {"includes_pixel": includes_pixel, "normalize": normalize}
    layout["oversample"] = float(layout.get("oversample", 1.0))
    pairs = []
    for k, image in enumerate(images):
        if centers is not None:
            layout["center"] = centers[k]
        try:
            pairs.append(build_targets(image, **layout))
            check_size(ngauss, pairs[-1][0])
        except InputError as error:
            raise InputError(f"position {k}: {error}") from None
    targets = [target for target, _ in pairs]
    floor = min(floor_of(target) for target in targets) if floor is None else floor
    options = Options(floor=floor, signed=signed)
    first = int(np.argmin(np.sum((places - places.mean(axis=0)) ** 2, axis=1)))
    middle = search(*pairs[first], ngauss, options, max_steps)
    means = np.array(
        [to_free(raw, floor, signed) for raw in _affine(middle.raw, targets, places, first)]
    )
    affine, scale = means, _scales(middle.raw, signed)
    basis = _basis(places)
    interior = interior_positions(places)
    states = [minimise(mean, t, options, 0) for mean, t in zip(means, targets, strict=True)]
    best, least = states, _largest_error(states, targets, places, interior)
    steps = middle.steps
    for tie in _TIES:
        found = []
        for k in tqdm(range(len(states)), desc=f"positions, tie {tie:g}", disable=not progress):
            prior = Prior(means[k], tie * middle.cost / scale**2)
            tied = options._replace(prior=prior)
            state = minimise(states[k].free, targets[k], tied, _STEPS)
            found.append(polish(state, targets[k], tied))
            steps += state.steps + found[-1].steps
        states, error = found, _largest_error(found, targets, places, interior)
        log.debug("tie %g: largest error %.3f %%", tie, 100 * error)
        enough = error > _GAIN * least
        if error < least:
            best, least = states, error
        if enough and tie < _TIES[0]:
            break
        departures = np.array([s.free for s in states]) - affine
        means = affine + _smooth(basis, departures)
    return [
        finish(s, t, options, includes_pixel, normalize, in_order=True)
        for s, t in zip(best, targets, strict=True)
    ]


def _scales(raw, signed):
    """What counts as a departure of 1 in every free parameter, array (ngauss, 6)."""
    scale = np.ones((len(raw), 6))
    scale[:, [1, 2, 4]] = np.sqrt(0.5 * (raw[:, CXX] + raw[:, CYY]))[:, None]
    if signed:
        scale[:, 0] = np.abs(raw[:, AMP]).max()
    return scale


def _affine(raw, targets, places, first):
    """The middle's mixture under the map that describes each image best, [(ngauss, 6)]."""
    found = {first: np.zeros(5)}
    for k in np.argsort(np.sum((places - places[first]) ** 2, axis=1)):
        if k in found:
            continue
        done = list(found)
        near = done[int(np.argmin(np.sum((places[done] - places[k]) ** 2, axis=1)))]

        def residual(parameters, target=targets[k]):
            moved = _moved(raw, parameters)
            difference = moved[:, AMP] @ densities(moved, target) - target.value
            return difference * target.weight / target.peak

        fit = least_squares(
            residual, found[near], x_scale=0.1, ftol=1e-6, xtol=1e-5, max_nfev=_AFFINE_STEPS
        )
        found[k] = fit.x
    return [_moved(raw, found[k]) for k in range(len(targets))]


def _moved(raw, parameters):
    """A mixture stretched by a symmetric matrix (ln size, ratio, off-diagonal) and shifted."""
    size, ratio, lean, dx, dy = parameters
    (a, b), (c, d) = matrix = np.array([[np.exp(size + ratio), lean], [lean, np.exp(size - ratio)]])
    out = raw.copy()
    out[:, [X, Y]] = raw[:, [X, Y]] @ matrix.T + (dx, dy)
    cxx, cyy, cxy = raw[:, CXX], raw[:, CYY], raw[:, CXY]
    out[:, CXX] = a * a * cxx + 2 * a * b * cxy + b * b * cyy
    out[:, CYY] = c * c * cxx + 2 * c * d * cxy + d * d * cyy
    out[:, CXY] = a * c * cxx + (a * d + b * c) * cxy + b * d * cyy
    return out


def _basis(places):
    """Polynomials of the positions, array (nloc, nterm)."""
    order = next(order for order, least in _ORDERS if len(places) >= least)
    x, y = ((places - places.mean(axis=0)) / max(np.ptp(places, axis=0).max(), 1e-300)).T
    powers = [(i, k) for i in range(order + 1) for k in range(order + 1 - i)]
    return np.stack([x**i * y**k for i, k in powers], axis=-1)


def _smooth(basis, values):
    """Polynomials through values (nloc, ...), at the positions."""
    flat = values.reshape(len(values), -1)
    return (basis @ np.linalg.lstsq(basis, flat, rcond=1e-9)[0]).reshape(values.shape)


def _largest_error(states, targets, places, interior):
    """Largest `worst_error` at the positions and, interpolated, at those that can be left out."""
    parameters = np.stack([from_array(state.raw) for state in states])
    worst = max(worst_error(s, t) for s, t in zip(states, targets, strict=True))
    for k in interior:
        others = np.arange(len(places)) != k
        raw = to_array(PSFModel(parameters[others], places[others]).at(*places[k]))
        model = raw[:, AMP] @ densities(raw, targets[k])
        worst = max(worst, worst_error(State(raw, raw, model, np.nan, 0), targets[k]))
    return worst
