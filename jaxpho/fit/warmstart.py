"""Covariances of sources that go from one patch to the next.

What a fit has learnt of the errors of a source serves to whiten the next sampling of it, in another
patch, with other neighbours, bounds or order of parameters. Covariances are kept in the
unconstrained parameters z of the fit that they are from, with its transform; to those of another
fit they are carried by the delta method, at the values that they are of. Under one transform that
is the identity, however near a bound a parameter is.

The whitening need not be exact: draws are right with any, and fewer gradients with a good one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.fit.posterior import physical_jacobian, to_unconstrained
from jaxpho.fit.transforms import Transform

Label = tuple
"""(owner, name, band): the owner is the name of a source, or ("exposure", name)."""
WIDEST = 1.0
"""Standard deviation in z of a parameter of which nothing is known: wide for a bounded one."""
NO_MAP = {"terms", "mean", "precision", "centre"}
"""Of a transform, what the slope of its map does not depend on."""


class Known(NamedTuple):
    """A covariance in z with what it is of, k parameters.

    Attributes
    ----------
    labels : tuple of Label
    theta : ndarray
        [k] physical values it was taken at.
    covariance : ndarray
        [k, k] in z, float64.
    transform : Transform
        arrays [k]; partners are among the k.
    """

    labels: tuple[Label, ...]
    theta: np.ndarray
    covariance: np.ndarray
    transform: Transform

    def select(self, owners) -> Known:
        """What is known of some owners, and of how they go together."""
        owners = set(owners)
        return _take(self, [i for i, label in enumerate(self.labels) if label[0] in owners])


def named(labels: Sequence[Label], source_ids: Sequence) -> list[Label]:
    """Labels of a patch with the sources' own names instead of their numbers in it."""
    return [
        (source_ids[owner] if isinstance(owner, int) else owner, name, band)
        for owner, name, band in labels
    ]


def remember(
    labels: Sequence[Label], theta: np.ndarray, covariance: np.ndarray, transform: Transform
) -> Known:
    """Keep a covariance, of a Laplace approximation or of draws.

    Parameters
    ----------
    labels : sequence of Label
        From `named`, the free parameters in order.
    theta : ndarray
        [n] physical values, padding allowed at the end.
    covariance : ndarray
        [n, n] in z: of `jaxpho.fit.uncertainty.laplace`, or the inverse of a mass matrix.
    transform : Transform
    """
    k = len(labels)
    whole = Known(tuple(labels), np.asarray(theta, float), np.asarray(covariance, float), transform)
    return _take(whole, list(range(k)))


def covariance_of_draws(theta: np.ndarray, transform: Transform) -> np.ndarray:
    """Covariance in z [n, n] of draws [chains, draws, n] of physical values."""
    n = theta.shape[-1]
    z = jax.vmap(to_unconstrained, (0, None))(jnp.asarray(theta).reshape(-1, n), transform)
    return np.cov(np.asarray(z, np.float64).T).reshape(n, n)


def assemble(
    known: Sequence[Known],
    labels: Sequence[Label],
    transform: Transform,
    fallback: np.ndarray | None = None,
) -> np.ndarray:
    """Covariance in z of the parameters of a fit.

    Parameters
    ----------
    known : sequence of Known
        Later ones replace earlier ones, owner by owner. Owners that the fit lacks are ignored, and
        so are correlations between owners that are not from one `Known`.
    labels : sequence of Label
        From `named`, the free parameters of the fit in order.
    transform : Transform
        Arrays [n], n at least the number of labels: what is beyond is padding.
    fallback : ndarray, optional
        [n] variances in z of parameters of which nothing is known (a new source, a nuisance of a
        new exposure); default 1, which is wide for a bounded parameter.

    Returns
    -------
    ndarray
        [n, n] float64, positive definite.
    """
    n = len(np.asarray(transform.low))
    out = np.diag(np.full(n, WIDEST**2) if fallback is None else np.asarray(fallback, float))
    at = {label: i for i, label in enumerate(labels)}
    latest = {label[0]: k for k, one in enumerate(known) for label in one.labels}
    for k, one in enumerate(known):
        owners = {label[0] for label in one.labels if latest[label[0]] == k}
        mine = one.select(owners)
        part = _take(mine, [i for i, label in enumerate(mine.labels) if label in at])
        if not part.labels:
            continue
        index = np.array([at[label] for label in part.labels])
        moved = _carry(part, _arrays(transform), index)
        out[np.ix_(index, index)] = moved
    return out


def _arrays(transform: Transform) -> Transform:
    """The coordinates as arrays; what couples priors plays no part in them."""
    return jax.tree.map(np.asarray, transform._replace(terms=None))


def _take(known: Known, index: list[int]) -> Known:
    """Some parameters of it; of the two ellipticities of a component both or none."""
    wanted = set(index)
    arrays = _arrays(known.transform)
    index = [i for i in index if not arrays.disc[i] or int(arrays.partner[i]) in wanted]
    place = {i: k for k, i in enumerate(index)}
    part = jax.tree.map(lambda a: a[index], arrays)
    part = part._replace(partner=np.array([place.get(int(p), 0) for p in part.partner], np.int32))
    own = np.arange(len(index), dtype=np.int32)
    part = part._replace(partner=np.where(part.disc, part.partner, own).astype(np.int32))
    return Known(
        tuple(known.labels[i] for i in index), known.theta[index],
        known.covariance[np.ix_(index, index)], part,
    )  # fmt: skip


def _carry(part: Known, transform: Transform, index: np.ndarray) -> np.ndarray:
    """Covariance in the z of another transform, at its entries ``index``."""
    target = jax.tree.map(lambda a: a[index], transform)
    place = {int(i): k for k, i in enumerate(index)}
    own = np.arange(len(index), dtype=np.int32)
    pairs = np.array([place.get(int(p), 0) for p in target.partner], np.int32)
    target = target._replace(partner=np.where(target.disc, pairs, own).astype(np.int32))
    same = np.ones(len(index), bool)
    for name in set(Transform._fields) - NO_MAP:
        same &= getattr(part.transform, name) == getattr(target, name)
    if same.all():
        return part.covariance
    moved = np.linalg.solve(_slopes(part.theta, target), _slopes(part.theta, part.transform))
    jacobian = np.where(same[:, None], np.eye(len(index)), moved)
    return jacobian @ part.covariance @ jacobian.T


def _slopes(theta: np.ndarray, transform: Transform) -> np.ndarray:
    """d theta / dz [k, k] at physical values, which are moved inside their bounds."""
    arrays = jax.tree.map(jnp.asarray, transform)
    z = to_unconstrained(jnp.asarray(theta, arrays.low.dtype), arrays)
    return np.asarray(physical_jacobian(z, arrays), np.float64)
