"""A sequence of mixtures of one PSF image, error against number of Gaussians, and a choice."""

import logging
import time
from typing import NamedTuple

import numpy as np

from jaxpho.errors import InputError
from psfmix.fit import MixtureFit, build_targets, check_size, finish, floor_of
from psfmix.lm import Options
from psfmix.search import climb

log = logging.getLogger("psfmix.ladder")

_MAX_STEPS = 150


class Rung(NamedTuple):
    """One mixture of a ladder and the processor time it took, s."""

    fit: MixtureFit
    seconds: float

    @property
    def ngauss(self):
        """Number of Gaussians."""
        return len(self.fit.parameters)


def fit_ladder(
    image,
    sizes,
    *,
    oversample=1.0,
    signed=False,
    includes_pixel=False,
    normalize="unit",
    trim=0,
    center=None,
    weight=None,
    floor=None,
    max_steps=_MAX_STEPS,
):
    """Fit mixtures of several sizes, each started from the one before as well.

    Parameters
    ----------
    image : array (ny, nx)
    sizes : ints
        Numbers of Gaussians; they are taken in ascending order.
    oversample, signed, includes_pixel, normalize, trim, center, weight, floor, max_steps
        See `psfmix.fit.fit_mixture`.

    Yields
    ------
    Rung
        As soon as it is found.

    Raises
    ------
    InputError
        Before the first rung, for the largest size.
    """
    sizes = sorted(set(sizes))
    if not sizes or sizes[0] < 1:
        raise InputError(f"a ladder of {sizes} Gaussians; expected numbers from 1 on")
    target, coarse = build_targets(
        image,
        oversample=float(oversample),
        includes_pixel=includes_pixel,
        normalize=normalize,
        trim=trim,
        center=center,
        weight=weight,
    )
    check_size(sizes[-1], target)
    floor = floor_of(target) if floor is None else floor
    options = Options(floor=floor, signed=signed)
    begin = time.process_time()
    for best in climb(target, coarse, sizes, options, max_steps):
        fit = finish(best, target, options, includes_pixel, normalize)
        now = time.process_time()
        yield Rung(fit, now - begin)
        begin = now


def choose(rungs, ngauss, tolerance=None):
    """The rung to keep.

    Parameters
    ----------
    rungs : sequence of Rung
    ngauss : int
        Taken when there is no tolerance.
    tolerance : float, optional
        Largest residual relative to the peak: the smallest mixture within it is taken, or the
        best one when there is none.

    Returns
    -------
    Rung
    bool
        Whether the tolerance is met; True without one.
    """
    if tolerance is None:
        return next(rung for rung in rungs if rung.ngauss == ngauss), True
    for rung in sorted(rungs, key=lambda rung: rung.ngauss):
        if rung.fit.residual <= tolerance:
            return rung, True
    return min(rungs, key=lambda rung: rung.fit.residual), False


def columns(rungs):
    """The table of a ladder: {name: (unit, values, format)}."""
    return {
        "ngauss": ("", np.array([rung.ngauss for rung in rungs]), "d"),
        "residual": ("%", np.array([100 * rung.fit.residual for rung in rungs]), ".3f"),
        "ee_error": ("%", np.array([100 * rung.fit.ee_error for rung in rungs]), ".3f"),
        "cpu_time": ("s", np.array([rung.seconds for rung in rungs]), ".2f"),
    }


def format_table(rungs, chosen=None):
    """The table as lines of text; the chosen size is marked."""
    lines = ["  N   residual   EE error   CPU time", "      % of peak  % (1-5px)          s"]
    for rung in rungs:
        mark = " <- stored" if rung.ngauss == chosen else ""
        lines.append(
            f"{rung.ngauss:3d} {100 * rung.fit.residual:10.3f} {100 * rung.fit.ee_error:10.3f} "
            f"{rung.seconds:10.2f}{mark}"
        )
    return "\n".join(lines)
