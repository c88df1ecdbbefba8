"""Draws of a Gaussian mixture's posterior, their diagnostics and summaries."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from jaxpho.errors import InputError
from psfmix.fit import MixtureFit

COMPONENT_NAMES = ("amp", "x", "y", "Cxx", "Cyy", "Cxy")
BACKGROUND = "background"
ORDERS = ("start", "width")


@dataclass(frozen=True)
class MixturePosterior:
    """Posterior of a mixture given one PSF image.

    Attributes
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (ngauss,)
        The draw of highest likelihood, the optimum that sampling started from included; native
        pixels, components in the order of the start.
    draws : dict of arrays
        ``amp``, ``x``, ``y``, ``Cxx``, ``Cyy``, ``Cxy`` [chain, draw, ngauss] in native pixels and
        the image's unit (or relative to the stamp's sum, see ``amplitude_sum``); ``background``
        [chain, draw] per image pixel when it was fitted. Each component keeps the identity that it
        has at the start of its chain; similar components may still trade places, see `ordered`.
    log_likelihood : array [chain, draw]
        -chi2 / 2 of every draw.
    divergences : int
        Divergent trajectories after warm-up.
    rhat, ess : dict of arrays
        Split R-hat and effective sample size of every parameter in ``draws``: [ngauss], or [] for
        the background; NaN where a parameter is held.
    num_gradients : int
        Evaluations of the gradient, all chains, warm-up included.
    best : (chain, draw) or None
        Where `parameters` come from; None for the optimum.
    best_log_likelihood, optimum_log_likelihood : float
        Of `parameters` and of the optimum.
    background : float
        Background per image pixel that belongs to `parameters`; 0 when it was not fitted.
    sigma : float
        Error of a pixel: max(image) / snr, in the image's unit.
    fit : MixtureFit
        `parameters` with their residual and encircled-energy error on the image.
    step_size, accept : float
        Mean step size and acceptance of the sampler.
    num_warmup, seed : int
    method : str
    statistics : dict of arrays [chain, draw]
        ``diverging``, ``n_steps`` (leapfrog steps) and ``acceptance_rate`` of every draw.
    """

    parameters: np.ndarray
    draws: dict
    log_likelihood: np.ndarray
    divergences: int
    rhat: dict
    ess: dict
    num_gradients: int
    best: tuple[int, int] | None
    best_log_likelihood: float
    optimum_log_likelihood: float
    background: float
    sigma: float
    fit: MixtureFit
    step_size: float
    accept: float
    num_warmup: int
    seed: int
    method: str = "nuts"
    statistics: dict = field(default_factory=dict)

    @property
    def ngauss(self):
        """Number of components."""
        return len(self.parameters)

    def with_background(self, level, unit=1.0):
        """The same where a constant had been taken off the image before sampling.

        Parameters
        ----------
        level : float
            The constant per image pixel, in the image's unit.
        unit : float
            What the image was divided by (its sum, for amplitudes that sum to 1): backgrounds are
            then in the image's unit as well.

        Returns
        -------
        MixturePosterior
        """
        draws = dict(self.draws)
        if BACKGROUND in draws:
            draws[BACKGROUND] = level + unit * draws[BACKGROUND]
        return replace(self, draws=draws, background=level + unit * self.background)

    def ordered(self, order="width"):
        """Draws with components sorted in every draw.

        The likelihood does not change when two components trade places. When they are similar
        they do so within a chain, and quantiles and R-hat of a component of the start mix both;
        sorting by width gives every component a meaning of its own.

        Parameters
        ----------
        order : {"width", "start"}
            By the determinant of the covariance, narrowest first; or as sampled.

        Returns
        -------
        dict of arrays
            As `draws`.
        """
        if order not in ORDERS:
            raise InputError(f"order of components is {order!r}; expected one of {ORDERS}")
        if order == "start":
            return dict(self.draws)
        return in_order_of_width(self.draws)

    def summary(self, order="width", probability=0.68):
        """Median, central interval, R-hat and effective sample size of every parameter.

        Parameters
        ----------
        order : {"width", "start"}
            See `ordered`.
        probability : float
            Of the central interval.

        Returns
        -------
        dict of dict
            For every name in `draws`: ``median``, ``low``, ``high``, ``rhat``, ``ess``, arrays
            [ngauss] or, for the background, [].
        """
        draws = self.ordered(order)
        rhat, ess = diagnose(draws)
        tails = [0.5, 0.5 * (1 - probability), 0.5 * (1 + probability)]
        out = {}
        for name, value in draws.items():
            median, low, high = np.quantile(value, tails, axis=(0, 1))
            out[name] = {
                "median": median,
                "low": low,
                "high": high,
                "rhat": rhat[name],
                "ess": ess[name],
            }
        return out


def in_order_of_width(draws):
    """Draws (dict of arrays, as in `MixturePosterior`) with components sorted in every draw."""
    width = draws["Cxx"] * draws["Cyy"] - draws["Cxy"] ** 2
    rank = np.argsort(width, axis=-1, kind="stable")
    return {
        name: np.take_along_axis(value, rank, -1) if name in COMPONENT_NAMES else value
        for name, value in draws.items()
    }


def diagnose(draws):
    """Split R-hat and effective sample size of draws [chain, draw, ...], dicts of arrays."""
    rhat, ess = {}, {}
    for name, value in draws.items():
        x = np.asarray(value, float)
        # numpyro halves the chains
        enough = x.shape[1] >= 4
        constant = np.all(x == x[:1, :1], axis=(0, 1))
        with np.errstate(all="ignore"):
            r = split_gelman_rubin(x) if enough else np.full(x.shape[2:], np.nan)
            e = effective_sample_size(x) if enough else np.full(x.shape[2:], np.nan)
        rhat[name], ess[name] = (np.where(constant, np.nan, a) for a in (r, e))
    return rhat, ess
