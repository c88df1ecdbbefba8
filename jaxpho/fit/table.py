"""The free parameters of a patch, and the arrays that the samplers need of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpho.core.scene import Scene
from jaxpho.core.sources import base_name
from jaxpho.fit.options import PriorOptions
from jaxpho.fit.prior_terms import FAMILY, PriorTerms
from jaxpho.fit.priors import size_given_flux
from jaxpho.fit.transforms import Transform

FLAT_WIDTH = 1e6
"""Standard deviation that stands for a flat prior of a flux, in units of its typical error: keeps
the posterior proper where a band has no pixel of a source; elsewhere it shifts nothing by more
than 1e-8 of itself (for an error a hundred times the typical one)."""


@dataclass
class SourceStart:
    """A source as the fit sees it.

    Attributes
    ----------
    type : str
        Key of `SOURCE_TYPES`.
    values : dict
        (parameter, band or "") -> starting value; positions are offsets in arcsec.
    fixed : frozenset
        Parameters held at their values; "shape" holds all shapes, "position" ra and dec,
        "all" everything.
    size : float
        Rough half-light radius, arcsec, for bounds.
    """

    type: str
    values: dict[tuple[str, str], float]
    fixed: frozenset[str] = frozenset()
    size: float = 0.0

    def holds(self, name: str) -> bool:
        """Whether a parameter is held."""
        groups = {"ra": "position", "dec": "position"}
        group = groups.get(name, "flux" if base_name(name) == "flux" else "shape")
        return not self.fixed.isdisjoint({name, group, "all"})


@dataclass
class Parameter:
    """One free parameter."""

    owner: Any
    name: str
    band: str
    start: float
    prior: PriorOptions
    scale: float = 1.0
    partner: int | None = None
    follow: int | None = None
    beside: float = 0.0

    @property
    def label(self) -> tuple:
        """(owner, name, band)."""
        return (self.owner, self.name, self.band)

    @property
    def linear(self) -> bool:
        """Whether the model is linear in it and it is unbounded: solved for directly."""
        linear_name = base_name(self.name) in ("flux", "sky") and not self.log
        return linear_name and self.prior.low is None and self.prior.high is None

    @property
    def log(self) -> bool:
        """Whether its natural coordinate is the logarithm."""
        return self.prior.logarithmic


@dataclass
class ParameterTable:
    """All free parameters of a patch and the index arrays that read them."""

    parameters: list[Parameter]
    scene: Scene
    fixed: dict = field(default_factory=dict)

    @property
    def labels(self) -> list[tuple]:
        """Labels of the free parameters."""
        return [p.label for p in self.parameters]

    @property
    def linear(self) -> np.ndarray:
        """[n] bool, linear and unbounded parameters."""
        return np.array([p.linear for p in self.parameters], bool)

    @property
    def normal(self) -> np.ndarray:
        """[n] bool, those of them whose posterior is normal given the others.

        A flux that a size depends on is not among them.
        """
        followed = {p.follow for p in self.parameters}
        alone = np.array([i not in followed for i in range(len(self.parameters))], bool)
        return self.linear & alone

    def start(self, n: int, dtype=np.float32) -> np.ndarray:
        """Starting theta padded with zeros to n."""
        out = np.zeros(n, dtype)
        out[: len(self.parameters)] = [p.start for p in self.parameters]
        return out

    def bounds(self) -> np.ndarray:
        """[npar, 2] lowest and highest value of each parameter, infinite where it has none."""
        ends = [(p.prior.low, p.prior.high) for p in self.parameters]
        out = np.array(ends, float).reshape(-1, 2)  # None becomes nan
        return np.where(np.isnan(out), [-np.inf, np.inf], out)

    def transform(self, n: int, dtype=np.float32) -> Transform:
        """Transform arrays padded to n (padding: standard normal)."""
        low, high, centre, mean, precision = np.zeros((5, n))
        scale = np.ones(n)
        log, bounded, disc = np.zeros((3, n), bool)
        partner = np.arange(n, dtype=np.int32)
        high += 1.0
        precision[len(self.parameters) :] = 1.0
        for i, p in enumerate(self.parameters):
            prior = p.prior
            log[i] = p.log
            convert = math.log if log[i] else float
            if p.partner is not None:
                disc[i], partner[i], high[i] = True, p.partner, prior.high
            elif prior.low is not None and prior.high is not None:
                bounded[i], low[i], high[i] = True, convert(prior.low), convert(prior.high)
            else:
                centre[i] = convert(p.start) if not p.linear else 0.0
                scale[i] = p.scale
            if prior.name == "size_magnitude":
                mean[i], precision[i] = size_given_flux(prior, 0.0), 1.0 / prior.sigma
            elif prior.sigma is not None:
                mean[i] = convert(prior.mean if prior.mean is not None else p.start)
                precision[i] = 1.0 / prior.sigma
            elif p.linear:
                precision[i] = 1.0 / (FLAT_WIDTH * p.scale)
        floats = {
            "low": low, "high": high, "centre": centre, "scale": scale,
            "mean": mean, "precision": precision,
        }  # fmt: skip
        return Transform(
            log=jnp.asarray(log),
            bounded=jnp.asarray(bounded),
            disc=jnp.asarray(disc),
            partner=jnp.asarray(partner),
            **{k: jnp.asarray(v, dtype) for k, v in floats.items()},
            terms=self._terms(n, dtype),
        )

    def _terms(self, n: int, dtype) -> PriorTerms | None:
        """What priors have beyond independent normals; None when that is nothing."""
        follow, family = np.arange(n, dtype=np.int32), np.zeros(n, np.int32)
        slope, first, second, beside = np.zeros((4, n))
        softening = np.ones(n)
        used = False
        for i, p in enumerate(self.parameters):
            prior = p.prior
            used |= prior.name in (*FAMILY, "beta") or p.follow is not None
            family[i], beside[i] = FAMILY.get(prior.name, 0), p.beside
            if prior.name == "beta":
                first[i], second[i] = prior.a - 1.0, prior.b - 1.0
            if p.follow is not None:
                follow[i] = p.follow
                slope[i] = size_given_flux(prior, 1.0) - size_given_flux(prior, 0.0)
                softening[i] = prior.softening or self.parameters[p.follow].scale
        if not used:
            return None
        floats = (jnp.asarray(a, dtype) for a in (slope, softening, first, second))
        beside = jnp.asarray(beside, dtype)
        return PriorTerms(jnp.asarray(follow), *floats, jnp.asarray(family), beside)
