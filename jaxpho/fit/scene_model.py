"""The posterior of a patch as a numpyro model with one site for each physical parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer.util import unconstrain_fn

from jaxpho.core.likelihood import plain_delta_chi2
from jaxpho.errors import InputError
from jaxpho.fit.evaluate import pixel_scale_of
from jaxpho.fit.options import FitOptions
from jaxpho.fit.posterior import (
    DEFAULT_STATIC,
    Problem,
    Static,
    gaussians_of,
    log_likelihood,
    model_of,
)
from jaxpho.fit.prior_sites import Site, owners_of, prior_distribution, sites_of
from jaxpho.fit.problem import make_problem
from jaxpho.fit.start import source_starts
from jaxpho.fit.table import ParameterTable

Prior = dist.Distribution | Callable[[dict], dist.Distribution]


class PixelDistribution(dist.Distribution):
    """All pixels of a patch: the model of its parameters plus noise; log_prob up to a constant.

    Parameters
    ----------
    theta : Array
        [n] physical parameters.
    problem : Problem
    static : Static
    plain : bool
        Without the fused kernel: twice differentiable and in forward mode too, at the price of
        memory (pixels x Gaussians).
    """

    support = constraints.real_matrix
    pytree_data_fields = ("theta", "problem")
    pytree_aux_fields = ("static", "plain")

    def __init__(self, theta, problem: Problem, static: Static, plain: bool = False):
        self.theta, self.problem, self.static, self.plain = theta, problem, static, plain
        super().__init__((), problem.patch.data.shape)

    def log_prob(self, value):
        """-chi2 / 2."""
        problem = self.problem._replace(patch=self.problem.patch._replace(data=value))
        # relative to the data: a sum of squares, which single precision takes well
        if not self.plain:
            return log_likelihood(self.theta, problem, value, self.static)
        gauss, sky = gaussians_of(self.theta, problem)
        return -0.5 * plain_delta_chi2(gauss, sky, problem.patch, value, self.static.mode).sum()

    @property
    def mean(self):
        """The model image, [M, N]."""
        return model_of(self.theta, self.problem, self.static)

    def sample(self, key, sample_shape=()):
        """Model and noise; masked pixels have none."""
        ierr = self.problem.patch.ierr
        sigma = jnp.where(ierr > 0, 1.0 / jnp.where(ierr > 0, ierr, 1.0), 0.0)
        noise = jax.random.normal(key, (*sample_shape, *self.event_shape), ierr.dtype)
        return self.mean + sigma * noise


class SceneModel:
    """A numpyro model of a patch: sites of physical parameters, plated over sources and bands.

    Sites are ``flux`` [bands, sources], ``ra``, ``dec`` [sources] (arcsec from the reference of the
    patch, RA times cos dec), ``rhalf`` [arcsec], ``sersic`` and ``e`` [sources, 2] (e1, e2), with
    the suffix of the component where a source has several, and the nuisances of exposures. A site
    has the sources whose parameter is free. Deterministic: ``q`` and ``pa`` (deg, East of North)
    beside each ``e``, and ``theta`` [n], the columns of a `PatchResult`. The site ``pixels`` is
    observed.

    Parameters
    ----------
    problem, table : Problem, ParameterTable
        From `scene_model` or `jaxpho.fit.problem.make_problem`.
    static : Static
    priors : mapping, optional
        Site -> numpyro distribution in place of the prior of the options, or a function of the
        sites so far (name -> value) that gives one, and may sample hyper-parameters of its own. A
        distribution is that of one source (and band); it is expanded over the plates.
    image : bool
        Whether to keep the model image as the deterministic site ``image`` [M, N].
    twice : bool
        Twice differentiable pixels, for `AutoLaplaceApproximation`: slower and large in memory.

    Attributes
    ----------
    sites : list of Site
        With the numbers of the sources and the bands of each.
    """

    def __init__(
        self,
        problem: Problem,
        table: ParameterTable,
        static: Static = DEFAULT_STATIC,
        *,
        priors: Mapping[str, Prior] | None = None,
        image: bool = False,
        twice: bool = False,
    ):
        self.problem, self.table, self.static = problem, table, static
        self.image, self.twice = image, twice
        self.transform = jax.tree.map(np.asarray, problem.transform)
        self.sites = sites_of(table)
        self.priors = dict(priors or {})
        self._owners = owners_of(self.sites)
        self._n = self.transform.log.shape[0]
        known = [s.name for s in self.sites]
        for name in self.priors:
            if name not in known:
                raise InputError(
                    f"priors: the model has no site '{name}', expected one of {', '.join(known)}"
                )

    def __call__(self, observed: bool = True):
        """The model; ``observed=False`` draws the pixels (prior and posterior predictive)."""
        patch = self.problem.patch
        theta, values = jnp.zeros(self._n, patch.data.dtype), {}
        for site in self.sites:
            theta, values[site.name] = self._sample(site, theta, values)
            if site.pair:
                self._ellipse(site, values[site.name])
        numpyro.deterministic("theta", theta)
        if self.image:
            numpyro.deterministic("image", model_of(theta, self.problem, self.static))
        pixels = PixelDistribution(theta, self.problem, self.static, self.twice)
        numpyro.sample("pixels", pixels, obs=patch.data if observed else None)

    def _sample(self, site: Site, theta, values: dict):
        given = self.priors.get(site.name)
        if given is None:
            given = prior_distribution(site, self.table, self.transform, theta)
        elif not isinstance(given, dist.Distribution):
            given = given(values)
        rows = [numpyro.plate(self._owners[site.owners], len(site.owners), dim=-1)]
        if site.bands:
            rows.append(numpyro.plate(self._bands(site), len(site.bands), dim=-2))
        with rows[0]:
            if site.bands:
                with rows[1]:
                    value = numpyro.sample(site.name, given)
            else:
                value = numpyro.sample(site.name, given)
        return theta.at[site.index].set(value.astype(theta.dtype)), value

    def _bands(self, site: Site) -> str:
        every = max((s.bands for s in self.sites), key=len)
        return "bands" if site.bands == every else f"bands_{site.name}"

    @staticmethod
    def _ellipse(site: Site, e) -> None:
        suffix = site.name[1:]
        size = jnp.sqrt((e * e).sum(-1))
        numpyro.deterministic("q" + suffix, (1.0 - size) / (1.0 + size))
        angle = jnp.rad2deg(0.5 * jnp.arctan2(e[..., 1], e[..., 0])) % 180.0
        numpyro.deterministic("pa" + suffix, angle)

    def values(self, theta) -> dict[str, jax.Array]:
        """Sites of physical parameters [..., n] (or the free ones alone, in their order)."""
        theta = jnp.asarray(theta, self.problem.patch.data.dtype)
        return {site.name: theta[..., site.index] for site in self.sites}

    def theta_of(self, values: Mapping[str, jax.Array]) -> np.ndarray:
        """Physical parameters [..., n] of sites, e.g. of the draws of an MCMC; padding is 0."""
        shape = None
        for site in self.sites:
            value = np.asarray(values[site.name])
            if shape is None:
                shape = value.shape[: value.ndim - site.index.ndim]
                out = np.zeros((*shape, self._n), value.dtype)
            out[..., site.index] = value
        return out

    def inverse_mass_matrix(self, theta, covariance) -> dict[tuple[str, ...], jax.Array]:
        """What makes numpyro's NUTS start well: a covariance in its unconstrained parameters.

        Parameters
        ----------
        theta, covariance : arrays
            [npar], [npar, npar], e.g. of a `PatchResult`.

        Returns
        -------
        dict
            For ``NUTS(model, inverse_mass_matrix=..., dense_mass=list(that))``.
        """
        names = tuple(sorted(site.name for site in self.sites))
        npar = len(self.table.parameters)
        full = (
            jnp.zeros(self._n, self.problem.patch.data.dtype)
            .at[:npar]
            .set(jnp.asarray(theta)[:npar].astype(self.problem.patch.data.dtype))
        )

        def flat(theta):
            free = unconstrain_fn(self, (), {}, self.values(theta))
            return jnp.concatenate([jnp.ravel(free[name]) for name in names])

        jacobian = np.asarray(jax.jacfwd(flat)(full), np.float64)[:, :npar]
        matrix = jacobian @ np.asarray(covariance, np.float64)[:npar, :npar] @ jacobian.T
        return {names: jnp.asarray(matrix, full.dtype)}


def scene_model(
    packed,
    peaks: Sequence,
    options: FitOptions | None = None,
    mixture: str = "k12",
    **kwargs,
) -> SceneModel:
    """The numpyro model of a packed patch and its sources.

    Parameters
    ----------
    packed : PackedPatch
        See `jaxpho.data.pack.pack_patch`.
    peaks : sequence of Peak
        The same sources, in the same order: types, starting values, what is held.
    options : FitOptions, optional
        Priors by name, as of `fit_patch`.
    mixture : str
        Sersic mixture.
    **kwargs
        ``priors``, ``image``, ``twice`` of `SceneModel`.
    """
    options = options or FitOptions()
    starts = source_starts(
        peaks, packed.bands, packed.reference, pixel_scale=pixel_scale_of(packed),
        q_min=options.q_min,
    )  # fmt: skip
    problem, table, _ = make_problem(packed, starts, options, mixture)
    width = 1 if jax.default_backend() == "cpu" else 64
    return SceneModel(problem, table, Static(options.pixel_mode, width), **kwargs)
