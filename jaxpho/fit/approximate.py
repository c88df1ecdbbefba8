"""Draws from normal approximations of the posterior: fast, and said to be what they are.

laplace: the normal at the mode in the unconstrained parameters z, mapped to the physical ones, so
that bounds hold and errors may be lopsided. svi: the normal in z nearest to the posterior in the
sense of Kullback & Leibler, by numpyro's stochastic variational inference (its
`AutoMultivariateNormal`), begun at the former. How good either is the importance ratios tell: the
shape k of the generalised Pareto distribution of the largest (Vehtari et al. 2024, JMLR 25, 72;
Yao et al. 2018, PMLR 80, 5581).
"""

import logging
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax.example_libraries.optimizers import exponential_decay
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.util import log_density

from jaxpho.fit.diagnostics import diagnose
from jaxpho.fit.draws import STATISTICS, Draws
from jaxpho.fit.models import unwhiten_all, whitened_model
from jaxpho.fit.options import SVI_PARTICLES, SampleOptions
from jaxpho.fit.posterior import Static
from jaxpho.fit.target import Arguments
from jaxpho.fit.transforms import physical

log = logging.getLogger("jaxpho.fit")

POOR_K = 0.7
"""Shape of the tail of importance ratios above which an approximation is no good."""
RATE, DECAY = 0.02, 0.1
"""Of SVI: draws a step, the first learning rate of Adam, and the factor of the last."""


class _Approximation:
    """Programs of one shape of problem."""

    def __init__(self, static: Static, n: int, steps: int):
        model = partial(whitened_model, static=static)
        start = init_to_value(values={"xi": jnp.zeros(n)})
        self.guide = AutoMultivariateNormal(model, init_loc_fn=start, init_scale=1.0)
        rate = exponential_decay(RATE, steps, DECAY)
        loss = Trace_ELBO(num_particles=SVI_PARTICLES)
        self.svi = SVI(model, self.guide, numpyro.optim.Adam(rate), loss)
        self.steps = steps
        self.run = jax.jit(self._run)
        self.draws = jax.jit(self._draws)
        self.model = model

    def _run(self, state, arguments):
        def step(state, _):
            return self.svi.update(state, *arguments)

        return jax.lax.scan(step, state, length=self.steps)

    def fit(self, key, arguments):
        """Mean [n] and lower root [n, n] of the normal in xi."""
        state = self.svi.init(key, *arguments)
        state, _ = self.run(state, tuple(arguments))
        found = self.guide.get_posterior(self.svi.get_params(state))
        return found.loc, found.scale_tril

    def _draws(self, eta, mean, root, arguments):
        """theta [draw, n], minus the log density, and the logarithm of the importance ratio."""

        def one(eta):
            xi = mean + jnp.sum(root * eta, -1)
            energy = -log_density(self.model, tuple(arguments), {}, {"xi": xi})[0]
            z, _ = unwhiten_all(xi, arguments.centre, arguments.factor, arguments.positive)
            theta = physical(z, arguments.problem.transform)
            return theta, energy, 0.5 * eta @ eta - energy

        return jax.lax.map(one, eta)


@lru_cache(maxsize=8)
def _approximation(static: Static, n: int, dtype: str, steps: int) -> _Approximation:
    return _Approximation(static, n, steps)


def approximate(
    key: jax.Array, arguments: Arguments, options: SampleOptions, static: Static, label: str = ""
) -> Draws:
    """Independent draws of the approximation that ``options.method`` names.

    Parameters
    ----------
    key, options, static, label
        As for `jaxpho.fit.sample.sample`.
    arguments : Arguments
        Of the density in whitened coordinates.

    Returns
    -------
    Draws
        Divergences and leapfrog steps are zero; ``gradients`` counts those of SVI.
    """
    n, dtype = len(arguments.factor), arguments.factor.dtype
    program = _approximation(static, n, str(dtype), options.svi_steps)
    fit_key, draw_key = jax.random.split(key)
    mean, root, gradients = jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype), 0
    if options.method == "svi":
        mean, root = program.fit(fit_key, arguments)
        gradients = SVI_PARTICLES * options.svi_steps
    shape = options.num_chains, options.num_samples
    eta = jax.random.normal(draw_key, (shape[0] * shape[1], n), dtype)
    found = [np.asarray(a) for a in program.draws(eta, mean, root, arguments)]
    theta, potential, ratio = found[0].reshape(*shape, n), found[1].reshape(shape), found[2]
    k = pareto_k(ratio)
    verdict = f"no good, its tail index is {k:.2f}" if k > POOR_K else f"tail index {k:.2f}"
    log.info(
        "%sdraws are those of a normal approximation (sample.method: %s), not of the posterior; "
        "importance ratios: %s (fit for use below %g)", label, options.method, verdict, POOR_K,
    )  # fmt: skip
    zero, nan = np.zeros(shape, np.int32), np.full(shape, np.nan, np.float32)
    statistics = dict(zip(STATISTICS, (nan, zero > 0, zero, nan + 1, nan, potential), strict=True))
    empty = {name: a[:, :0] for name, a in statistics.items()}
    scale = np.asarray(arguments.factor, np.float64) @ np.asarray(root, np.float64)
    precision = np.linalg.inv(scale @ scale.T)
    first = np.asarray(arguments.factor, np.float64)
    return Draws(
        theta=theta, method=options.method, worth=diagnose(theta),
        ebfmi=np.full(shape[0], np.nan), divergences=0, gradients=gradients, warmup_gradients=0,
        accept=float("nan"), step_size=float("nan"), rounds=1, redone=0, over_budget=False,
        pareto_k=k, statistics=statistics, warmup=theta[:, :0], warmup_statistics=empty,
        mass_matrix_initial=np.linalg.inv(first @ first.T), mass_matrix_final=precision,
    )  # fmt: skip


def pareto_k(log_ratios: np.ndarray) -> float:
    """Shape of the generalised Pareto distribution of the largest importance ratios.

    Parameters
    ----------
    log_ratios : ndarray
        [draws]

    Returns
    -------
    float
        Infinite where ratios are not finite.

    Notes
    -----
    The estimate of Zhang & Stephens (2009, Technometrics 51, 316) with the prior of Vehtari et al.
    (2024), of the min(S/5, 3 sqrt S) largest of S ratios.
    """
    x = np.sort(np.asarray(log_ratios, np.float64))
    if not np.isfinite(x).all():
        return float("inf")
    number = int(np.ceil(min(0.2 * len(x), 3.0 * np.sqrt(len(x)))))
    if number < 5:
        return float("inf")
    x = np.exp(x - x[-1])
    tail = x[-number:] - x[-number - 1]
    if tail[0] <= 0 or tail[-1] <= 0:
        return float("-inf") if np.ptp(x) == 0 else 0.0
    guesses = 30 + int(np.sqrt(number))
    quartile = tail[int(number / 4 + 0.5) - 1]
    b = 1.0 - np.sqrt(guesses / (np.arange(1, guesses + 1) - 0.5))
    b = b / (3.0 * quartile) + 1.0 / tail[-1]
    shape = np.log1p(-b[:, None] * tail).mean(1)
    likelihood = number * (np.log(-b / shape) - shape - 1.0)
    weight = 1.0 / np.exp(likelihood - likelihood[:, None]).sum(1)
    b = (b * weight).sum() / weight.sum()
    shape = np.log1p(-b * tail).mean()
    return float((number * shape + 5.0) / (number + 10.0))
