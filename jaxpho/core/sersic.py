"""Sersic profiles as sums of Gaussians: scale-free mixtures, and splines on fixed radii.

Both kinds answer one question, with the same call: for a Sersic index and a half-light radius,
which circular Gaussians (amplitude, variance) add up to the profile. The rest of the model never
asks which kind it holds.

`SersicMixture` is the default. Its widths are ``sigma_k = rhalf s_k(n)``, its amplitudes
``a_k(n)`` sum to one, and both are polynomials in ln n, so it is smooth; at n = .5, where a profile
is one Gaussian, a branch for flatter profiles (amplitudes of both signs) joins the main one.
`SersicSplines` reproduces forcepho's tables (fixed radii, bicubic in n and rhalf) and is kept for
compatibility with them.
"""

import math
import warnings
from importlib.resources import files
from io import BytesIO
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.interpolate import BSpline, RectBivariateSpline, SmoothBivariateSpline

from jaxpho.errors import InputError

N_MIN, N_MAX = 0.3, 8.0
"""Range of the Sersic index of the mixtures; evaluation holds n at the ends."""

N_GAUSSIAN = 0.5
"""Where a profile is a Gaussian; below, it is a signed sum of Gaussians."""

DESIGN_BLUR = {"k8": 1 / 16, "k10": 1 / 32, "k12": 1 / 32, "k16": 1 / 128}
"""Smallest blur (standard deviation of the PSF over rhalf) a mixture was fitted for, by name."""


def blur_in_rhalf(psf_sigma, rhalf, q=1.0):
    """The blur of a galaxy by its PSF, in the units of `DESIGN_BLUR`.

    Parameters
    ----------
    psf_sigma : float or array
        Standard deviation of the PSF's narrowest important Gaussian, arcsec.
    rhalf : float or array
        Circularised half-light radius, arcsec.
    q : float or array
        Axis ratio b/a. An elongated galaxy is sharper along its minor axis.
    """
    return np.sqrt(q) * np.asarray(psf_sigma) / np.asarray(rhalf)


def mixture_for_blur(blur, smallest="k12"):
    """Name of the cheapest mixture, `smallest` or larger, made for this blur.

    Parameters
    ----------
    blur : float
        From `blur_in_rhalf`: the smallest over the sources and exposures concerned.
    smallest : str
        The name to start from.

    Returns
    -------
    name : str
        "k16" is also the answer below its own design blur: test
        ``blur < DESIGN_BLUR[name]`` to warn that the inner cusp is then softened.
    """
    names = [name for name in DESIGN_BLUR if int(name[1:]) >= int(smallest[1:])]
    return next((name for name in names if blur >= DESIGN_BLUR[name]), "k16")


def _hold(x, low, high):
    """Clip to [low, high], with the full derivative at the ends (jnp.clip gives half of it)."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _variable(sersic, low, high):
    """ln n, held to [low, high], on [-1, 1]."""
    # Python floats: a numpy scalar would turn float32 input into float64 where x64 is on.
    return jnp.log(_hold(sersic, low, high) / low) * (2 / math.log(high / low)) - 1


def _chebyshev(coefficients, u):
    """Clenshaw's sum of Chebyshev polynomials: coefficients [nc, K], u [...] -> [..., K]."""
    u = u[..., None]
    b1 = jnp.zeros_like(u * coefficients[0])
    b2 = b1
    for c in coefficients[:0:-1]:
        b1, b2 = c + 2 * u * b1 - b2, b1
    return coefficients[0] + u * b1 - b2


class SersicMixture(NamedTuple):
    """A scale-free mixture of K Gaussians for every Sersic index in [0.3, 8].

    Attributes
    ----------
    log_sigma : Array [nc, K]
        Chebyshev coefficients of ln s_k for n >= 0.5, in ``u = 2 ln(n/0.5)/ln(16) - 1``.
    amplitude : Array [nd, K]
        Chebyshev coefficients of a_k. Over k the rows sum to (1, 0, 0, ...): total flux 1.
    log_sigma_flat, amplitude_flat : Array [mc, K], [md, K]
        The same for n < 0.5, in ``u = 2 ln(n/0.3)/ln(5/3) - 1``. Amplitudes have both signs; the
        sum of their absolute values stays below 45. The two branches agree at n = 0.5 within the
        accuracy of the table, not to rounding.
    """

    log_sigma: Array
    amplitude: Array
    log_sigma_flat: Array
    amplitude_flat: Array

    def evaluate(self, sersic, rhalf):
        """Amplitudes and variances of the Gaussians of one or many galaxies.

        Parameters
        ----------
        sersic : Array [...]
            Sersic index. Outside [0.3, 8] it is held at the end (derivative zero there).
        rhalf : Array [...]
            Circularised half-light radius, arcsec. Broadcast against `sersic`.

        Returns
        -------
        amp : Array [..., K]
            Fractions of the total flux of the untruncated profile; they sum to 1, and are
            essentially positive for n >= 0.5.
        var : Array [..., K]
            Variances, arcsec^2.
        """
        sersic, rhalf = jnp.broadcast_arrays(jnp.asarray(sersic), jnp.asarray(rhalf))
        u = _variable(sersic, N_GAUSSIAN, N_MAX)
        u_flat = _variable(sersic, N_MIN, N_GAUSSIAN)
        flat = (sersic < N_GAUSSIAN)[..., None]
        amp = jnp.where(
            flat, _chebyshev(self.amplitude_flat, u_flat), _chebyshev(self.amplitude, u)
        )
        log_sigma = jnp.where(
            flat, _chebyshev(self.log_sigma_flat, u_flat), _chebyshev(self.log_sigma, u)
        )
        return amp, rhalf[..., None] ** 2 * jnp.exp(2 * log_sigma)


def _cubic_basis(knots, x):
    """The four cubic B-splines that are not zero at x.

    Returns the index of the first one and a list of four arrays shaped as x. The recursion only
    divides by differences that span the (non-empty) interval x lies in, so every derivative is
    finite.
    """
    size = knots.shape[0] - 4
    interval = jnp.clip(jnp.sum(knots <= x[..., None], axis=-1) - 1, 3, size - 1)
    basis = [jnp.ones_like(x)]
    for degree in (1, 2, 3):
        raised = [jnp.zeros_like(x)] * (degree + 1)
        for r in range(degree):
            right = knots[interval + r + 1]
            left = knots[interval + 1 + r - degree]
            ratio = basis[r] / (right - left)
            raised[r] = raised[r] + (right - x) * ratio
            raised[r + 1] = (x - left) * ratio
        basis = raised
    return interval - 3, basis


class SersicSplines(NamedTuple):
    """forcepho's tables: fixed radii, amplitudes bicubic in (n, rhalf).

    The amplitudes do not sum to one exactly; that is a property of these tables.

    Attributes
    ----------
    knots_n, knots_rh : Array [cn + 4], [cr + 4]
        Knots of the cubic B-splines.
    coefficients : Array [cn, cr, K]
    radii, rad2 : Array [K]
        The fixed Gaussian widths, arcsec, and their squares.
    """

    knots_n: Array
    knots_rh: Array
    coefficients: Array
    radii: Array
    rad2: Array

    def evaluate(self, sersic, rhalf):
        """Amplitudes and variances of the Gaussians of one or many galaxies.

        Parameters
        ----------
        sersic : Array [...]
            Sersic index. Below the table: all flux in the Gaussian whose radius is nearest to
            rhalf, derivatives zero (forcepho's way of making a point source). Above: held at
            the end, derivative zero.
        rhalf : Array [...]
            Circularised half-light radius, arcsec. Below zero: all flux in the first Gaussian,
            derivatives zero. Elsewhere outside the table: held at the end.

        Returns
        -------
        amp : Array [..., K]
        var : Array [..., K]
            ``rad2``, arcsec^2, broadcast: it does not depend on the parameters.
        """
        sersic, rhalf = jnp.broadcast_arrays(jnp.asarray(sersic), jnp.asarray(rhalf))
        n_low, n_high = self.knots_n[3], self.knots_n[-4]
        r_low, r_high = self.knots_rh[3], self.knots_rh[-4]
        i, basis_n = _cubic_basis(self.knots_n, _hold(sersic, n_low, n_high))
        j, basis_r = _cubic_basis(self.knots_rh, _hold(rhalf, r_low, r_high))
        amp = sum(
            (basis_n[a] * basis_r[b])[..., None] * self.coefficients[i + a, j + b]
            for a in range(4)
            for b in range(4)
        )
        nearest = jnp.argmin(jnp.abs(self.radii - rhalf[..., None]), axis=-1)
        chosen = jnp.where(rhalf < 0, 0, nearest)[..., None]
        delta = (jnp.arange(self.radii.shape[0]) == chosen).astype(amp.dtype)
        amp = jnp.where(((sersic < n_low) | (rhalf < 0))[..., None], delta, amp)
        return amp, jnp.broadcast_to(self.rad2, amp.shape)


def load_mixture(name="k12", dtype=jnp.float32):
    """Read one of the tables that come with the package.

    Parameters
    ----------
    name : {"k8", "k10", "k12", "k16"}
        Number of Gaussians: "k12" is the default, "k16" the reference. See
        `jaxpho.core.tables` for what each was measured to be good for.
    dtype : dtype
        Of the coefficients; float64 needs ``jax_enable_x64``.

    Returns
    -------
    mixture : SersicMixture

    Raises
    ------
    InputError
        Unknown name.
    """
    if name not in DESIGN_BLUR:
        raise InputError(
            f"Sersic mixture: unknown name {name!r}, expected one of {', '.join(DESIGN_BLUR)}"
        )
    blob = files("jaxpho.core.tables").joinpath(f"{name}.npz").read_bytes()
    with np.load(BytesIO(blob), allow_pickle=False) as table:
        return SersicMixture(*(jnp.asarray(table[key], dtype) for key in SersicMixture._fields))


def load_splines(radii, nsersic, rh, amplitudes, dtype=jnp.float32, kind="rectangular"):
    """Turn a table of amplitudes into splines, as forcepho does.

    scipy computes the bicubic splines; their B-spline coefficients are what is evaluated in JAX.

    Parameters
    ----------
    radii : array [K]
        Widths of the Gaussians, arcsec.
    nsersic, rh : array [N]
        Sersic index and half-light radius (arcsec) of every row, in any order; a full regular
        grid for "rectangular".
    amplitudes : array [N, K]
    dtype : dtype
        Of the result; float64 needs ``jax_enable_x64``.
    kind : {"rectangular", "smooth"}
        "rectangular" goes through every point (``RectBivariateSpline`` with ``s = 0``); "smooth"
        is what forcepho did with its older tables (``SmoothBivariateSpline`` of scipy's default
        smoothing), whose points need no grid.

    Returns
    -------
    splines : SersicSplines

    Raises
    ------
    InputError
        Shapes that disagree, non-finite values, or rows that are not a full grid of at least
        4 x 4 points.
    """
    radii, nsersic, rh, amplitudes = (
        np.asarray(a, dtype=float) for a in (radii, nsersic, rh, amplitudes)
    )
    expected = (nsersic.size, radii.size)
    if amplitudes.shape != expected or rh.shape != nsersic.shape:
        raise InputError(
            f"Sersic spline table: amplitudes has shape {amplitudes.shape} and rh {rh.shape}, "
            f"expected {expected} and {nsersic.shape} from nsersic and radii"
        )
    if not all(np.isfinite(a).all() for a in (radii, nsersic, rh, amplitudes)):
        raise InputError("Sersic spline table: found non-finite values, expected finite numbers")
    fit = {"rectangular": _interpolating, "smooth": _smoothing}
    if kind not in fit:
        raise InputError(f"Sersic splines: unknown kind {kind!r}, expected {' or '.join(fit)}")
    knots_n, knots_rh, coefficients = fit[kind](nsersic, rh, amplitudes)
    return SersicSplines(
        *(jnp.asarray(a, dtype) for a in (knots_n, knots_rh, coefficients, radii, radii**2))
    )


def _interpolating(nsersic, rh, amplitudes):
    """Knots and coefficients [cn, cr, K] of the splines through a full grid of points."""
    n_grid, r_grid = np.unique(nsersic), np.unique(rh)
    order = np.lexsort((rh, nsersic))
    full = n_grid.size * r_grid.size == nsersic.size and np.array_equal(
        rh[order], np.tile(r_grid, n_grid.size)
    )
    if not full or min(n_grid.size, r_grid.size) < 4:
        raise InputError(
            f"Sersic spline table: {nsersic.size} rows with {n_grid.size} different nsersic and "
            f"{r_grid.size} different rh, expected a full regular grid of at least 4 x 4"
        )
    cube = amplitudes[order].reshape(n_grid.size, r_grid.size, -1)
    fits = [
        RectBivariateSpline(n_grid, r_grid, cube[..., k], kx=3, ky=3, s=0)
        for k in range(cube.shape[-1])
    ]
    shape = cube.shape[:2]
    return *fits[0].get_knots(), np.stack([f.get_coeffs().reshape(shape) for f in fits], axis=-1)


def _smoothing(nsersic, rh, amplitudes):
    """The same of smoothing splines of scattered points.

    Each radius gets knots of its own. A spline is also one on more knots, so all are written on
    the union of their knots; the coefficients follow from the values at as many points.
    """
    if nsersic.size < 16:
        raise InputError(
            f"Sersic spline table: {nsersic.size} rows, expected at least 16 for smooth splines"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that s is small is the table's property
        fits = [SmoothBivariateSpline(nsersic, rh, a) for a in amplitudes.T]
    knots = [_union([f.get_knots()[axis] for f in fits]) for axis in (0, 1)]
    points = [_greville(t) for t in knots]
    basis = [
        np.linalg.inv(BSpline.design_matrix(x, t, 3).toarray())
        for x, t in zip(points, knots, strict=True)
    ]
    values = np.stack([f(*points) for f in fits], axis=-1)
    return *knots, np.einsum("ai,bj,ijk->abk", *basis, values)


def _union(knots):
    """Clamped cubic knots with every interior knot, at the multiplicity it has at most."""
    interior = {}
    for t in knots:
        for value, count in zip(*np.unique(t[4:-4], return_counts=True), strict=True):
            interior[value] = max(count, interior.get(value, 0))
    inner = [value for value in sorted(interior) for _ in range(interior[value])]
    ends = knots[0][[0, -1]]
    return np.concatenate([[ends[0]] * 4, inner, [ends[1]] * 4])


def _greville(knots):
    """Where the values of a cubic spline determine its coefficients."""
    points = (knots[1:-3] + knots[2:-2] + knots[3:-1]) / 3
    return np.clip(points, knots[0], knots[-1])
