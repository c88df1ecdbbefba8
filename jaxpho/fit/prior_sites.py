"""The priors of a patch as numpyro distributions, one site for each physical parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    Transform,
    biject_to,
)

from jaxpho.fit.prior_terms import log_shape, means
from jaxpho.fit.table import ParameterTable
from jaxpho.fit.transforms import Transform as Arrays

_GRID = 2001


class Site(NamedTuple):
    """One site of the model.

    Attributes
    ----------
    name : str
        Of the parameter; "e" (with the component's suffix) for the two free ellipticities.
    index : ndarray
        Entries of theta: [sources], [bands, sources] or, for "e", [sources, 2].
    owners : tuple
        Source numbers, or names of exposures.
    bands : tuple of str
        () for what has no band.
    """

    name: str
    index: np.ndarray
    owners: tuple
    bands: tuple[str, ...]

    @property
    def pair(self) -> bool:
        """Whether it holds two ellipticities."""
        return not self.bands and self.index.ndim == 2


def sites_of(table: ParameterTable) -> list[Site]:
    """The sites of all free parameters, in the order of the table; fluxes before what follows them.

    Sources that have a parameter free share its site; one of two ellipticities whose partner is
    held has a site of its own name.
    """
    groups: dict[str, list[int]] = {}
    for i, p in enumerate(table.parameters):
        if p.partner is None:
            groups.setdefault(p.name, []).append(i)
        elif i < p.partner:
            groups.setdefault("e" + p.name[2:], []).append(i)
    out = []
    for name, members in groups.items():
        parameters = [table.parameters[i] for i in members]
        owners = tuple(dict.fromkeys(p.owner for p in parameters))
        bands = tuple(dict.fromkeys(p.band for p in parameters if p.band))
        index = np.array(members)
        if parameters[0].partner is not None:
            index = np.stack([index, [p.partner for p in parameters]], -1)
        elif bands:
            index = index.reshape(len(owners), len(bands)).T
        out.append(Site(name, index, owners, bands))
    return out


def prior_distribution(
    site: Site, table: ParameterTable, tr: Arrays, theta: jax.Array
) -> dist.Distribution:
    """The prior of a site, given the sites before it.

    Parameters
    ----------
    site : Site
    table : ParameterTable
    tr : Transform
        Of the table, as numpy arrays: what the samplers of this package use.
    theta : Array
        [n] with the values of the sites before: a size may follow a flux.
    """
    at = site.index
    first = table.parameters[int(at.flat[0])]
    low, high, mean, precision = (a[at] for a in (tr.low, tr.high, tr.mean, tr.precision))
    terms = tr.terms
    family = 0 if terms is None else int(terms.family[int(at.flat[0])])
    if site.pair:
        return Disc(high[:, 0], mean, precision, family)
    if terms is not None:
        t = jnp.where(tr.log, jnp.log(jnp.where(tr.log, theta, 1.0)), theta)
        mean = means(t, tr)[at]
    if family:
        return Chord(low, high, terms.beside[at], family)
    bounded = bool(tr.bounded[int(at.flat[0])])
    if first.prior.name == "beta":
        unit = dist.Beta(terms.first[at] + 1.0, terms.second[at] + 1.0)
        return dist.TransformedDistribution(
            unit, AffineTransform(low, high - low, domain=constraints.unit_interval)
        )
    if not (precision > 0).all():
        natural, domain = dist.Uniform(low, high), constraints.interval(low, high)
    elif bounded:
        natural = dist.TruncatedNormal(mean, 1.0 / precision, low=low, high=high)
        domain = constraints.interval(low, high)
    else:
        natural, domain = dist.Normal(mean, 1.0 / precision), constraints.real
    if not first.log:
        return natural
    return dist.TransformedDistribution(natural, ExpTransform(domain))


class _Within(constraints.Constraint):
    """(e1, e2) in the disc of a radius."""

    event_dim = 1

    def __init__(self, radius):
        self.radius = radius

    def __call__(self, x):
        return (x * x).sum(-1) < jnp.square(self.radius)

    def feasible_like(self, prototype):
        return jnp.zeros_like(prototype)

    def tree_flatten(self):
        return (self.radius,), (("radius",), {})


class DiscTransform(Transform):
    """e = R v / sqrt(1 + |v|^2), from the plane to the disc of radius R."""

    domain = constraints.real_vector

    def __init__(self, radius):
        self.radius = radius

    @property
    def codomain(self):
        """The disc."""
        return _Within(self.radius)

    def __call__(self, v):
        return jnp.asarray(self.radius)[..., None] * v / jnp.sqrt(1.0 + (v * v).sum(-1))[..., None]

    def _inverse(self, e):
        unit = e / jnp.asarray(self.radius)[..., None]
        return unit / jnp.sqrt(jnp.maximum(1.0 - (unit * unit).sum(-1), 1e-12))[..., None]

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        return 2.0 * jnp.log(self.radius) - 2.0 * jnp.log1p((x * x).sum(-1))

    def tree_flatten(self):
        return (self.radius,), (("radius",), {})


@biject_to.register(_Within)
def _biject_to_disc(constraint):
    return DiscTransform(constraint.radius)


class Disc(dist.Distribution):
    """(e1, e2) within a disc: uniform, normal or of a population of galaxies; up to a constant.

    Parameters
    ----------
    radius : Array
        [...] largest ellipticity.
    loc, precision : Array
        [..., 2] mean and 1/sigma of the normal prior; precision 0 for none.
    family : int
        `jaxpho.fit.prior_terms.FAMILY`, or 0.
    """

    pytree_data_fields = ("radius", "loc", "precision")
    pytree_aux_fields = ("family",)

    def __init__(self, radius, loc=None, precision=None, family: int = 0):
        self.radius = jnp.asarray(radius)
        pair = jnp.zeros((*self.radius.shape, 2), self.radius.dtype)
        self.loc = pair if loc is None else jnp.asarray(loc)
        self.precision = pair if precision is None else jnp.asarray(precision)
        self.family = family
        super().__init__(self.radius.shape, (2,))

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self):
        """The disc."""
        return _Within(self.radius)

    def log_prob(self, value):
        """ln density, up to a constant."""
        e = jnp.sqrt((value * value).sum(-1) + 1e-12)
        square = (((value - self.loc) * self.precision) ** 2).sum(-1)
        return log_shape(e, self.family) - 0.5 * square

    def sample(self, key, sample_shape=()):
        """Draws, by the distribution of |e| on a grid; by rejection about another mean than 0."""
        share, angle, pick = jax.random.split(key, 3)
        shape = (*sample_shape, *self.batch_shape)
        radius = jnp.broadcast_to(self.radius, shape)[..., None]
        e = radius * jnp.linspace(0.0, 1.0, _GRID, dtype=self.radius.dtype)
        isotropic = self.precision[..., 0] * jnp.ones(shape, self.radius.dtype)
        square = jnp.square(e * isotropic[..., None])
        density = e * jnp.exp(log_shape(e, self.family) - 0.5 * square)
        e = _from_grid(share, e, density)
        at = 2.0 * jnp.pi * jax.random.uniform(angle, shape, self.radius.dtype)
        plain = e[..., None] * jnp.stack([jnp.cos(at), jnp.sin(at)], -1)
        return plain if self.family else _shifted(pick, plain, self)


def _shifted(key, plain, disc):
    """Draws about a mean that is not 0, by rejection; the others stay as they are."""

    def body(state):
        key, value, inside = state
        key, own = jax.random.split(key)
        sigma = jnp.where(disc.precision > 0, 1.0 / jnp.maximum(disc.precision, 1e-30), 0.0)
        trial = disc.loc + sigma * jax.random.normal(own, value.shape, value.dtype)
        trial = jnp.where(inside[..., None], value, trial)
        return key, trial, (trial * trial).sum(-1) < jnp.square(disc.radius)

    central = (jnp.abs(disc.loc) * disc.precision).sum(-1) == 0
    inside = jnp.broadcast_to(central, plain.shape[:-1])
    return jax.lax.while_loop(lambda s: ~s[2].all(), body, (key, plain, inside))[1]


class Chord(dist.Distribution):
    """One ellipticity of a population beside a held one; up to a constant."""

    pytree_data_fields = ("low", "high", "beside")
    pytree_aux_fields = ("family",)

    def __init__(self, low, high, beside, family: int):
        self.low, self.high, self.beside = (jnp.asarray(a) for a in (low, high, beside))
        self.family = family
        super().__init__(self.low.shape, ())

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self):
        """The chord of the disc."""
        return constraints.interval(self.low, self.high)

    def log_prob(self, value):
        """ln density, up to a constant."""
        return log_shape(jnp.hypot(value, self.beside), self.family)

    def sample(self, key, sample_shape=()):
        """Draws, by their distribution on a grid."""
        shape = (*sample_shape, *self.batch_shape)
        low, high = (jnp.broadcast_to(a, shape)[..., None] for a in (self.low, self.high))
        grid = low + (high - low) * jnp.linspace(0.0, 1.0, _GRID, dtype=self.low.dtype)
        density = jnp.exp(self.log_prob(jnp.moveaxis(grid, -1, 0)))
        return _from_grid(key, grid, jnp.moveaxis(density, 0, -1))


def _from_grid(key, grid, density):
    """Draws [...] of a density given on a grid [..., g]."""
    steps = 0.5 * (density[..., 1:] + density[..., :-1])
    share = jnp.concatenate([jnp.zeros_like(steps[..., :1]), jnp.cumsum(steps, -1)], -1)
    at = share[..., -1] * jax.random.uniform(key, share.shape[:-1], grid.dtype)
    flat = (a.reshape(-1, a.shape[-1]) for a in (share, grid))
    return jax.vmap(jnp.interp)(at.reshape(-1), *flat).reshape(at.shape)


def owners_of(sites: Sequence[Site]) -> dict[tuple, str]:
    """Name of the plate of each set of owners."""
    everyone = {o for s in sites for o in s.owners if isinstance(o, int)}
    out: dict[tuple, str] = {}
    for s in sites:
        if s.owners in out:
            continue
        if set(s.owners) == everyone:
            out[s.owners] = "sources"
        else:
            kind = "sources" if isinstance(s.owners[0], int) else "exposures"
            out[s.owners] = f"{kind}_{s.name}"
    return out
