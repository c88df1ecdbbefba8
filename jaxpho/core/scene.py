"""From a flat parameter vector to the Gaussians of every source in every exposure.

The parameter vector ``theta`` holds physical values: fluxes, positions as offsets in arcsec (RA
times cos dec, dec) from the reference, rhalf [arcsec], Sersic index, e1, e2, and the exposures'
nuisances. A `Scene` says where each component finds its values: ``rows`` are gathered by integer
index from ``theta`` followed by constants, so that fixing or sharing a parameter is a matter of
indices and a mosaic of patches shares one compiled program.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxpho.core.gaussians import Gaussians, shape_matrix, stack, transform_covariance
from jaxpho.core.patch import Patch
from jaxpho.core.sersic import N_MAX, N_MIN, SersicMixture, SersicSplines

Mixture = SersicMixture | SersicSplines

ROW = ("flux", "ra", "dec", "rhalf", "sersic", "e1", "e2")
POINT_ROW = ROW[:3]
LARGEST_E = 0.98
"""Ellipticity beyond which a shape that changes with the band does not go."""
NUISANCE = ("dra", "ddec", "scale", "sky", "sky_x", "sky_y")


class Link(NamedTuple):
    """How the shapes of Sersic components differ from band to band.

    Attributes
    ----------
    index : Array
        [B, C, 4] indices of what is added to ln rhalf, n, e1 and e2.
    weight : Array
        [B, C, 4] its factor in each band.
    """

    index: Array
    weight: Array


class Scene(NamedTuple):
    """Where components and nuisances find their values.

    Attributes
    ----------
    sersic_index : Array
        [B, C, 7] indices into ``concatenate([theta, constants])`` of each Sersic component's row.
    point_index : Array
        [B, Q, 3] the same for point components.
    sersic_source, point_source : Array
        [C], [Q] index of the source a component belongs to.
    nuisance_index : Array
        [E, 6] indices of the exposures' nuisances: astrometric offset [arcsec] (a source appears
        at its position plus this), flux scale, sky constant and slopes [image unit per pixel].
    constants : Array
        [n] values that are not free.
    cos_dec : Array
        [] cosine of the reference declination.
    link : Link, optional
        Shapes that differ from band to band; None is one shape in all.
    """

    sersic_index: Array
    point_index: Array
    sersic_source: Array
    point_source: Array
    nuisance_index: Array
    constants: Array
    cos_dec: Array
    link: Link | None = None


class Rows(NamedTuple):
    """Values per exposure and component: [E, C, 7], [E, Q, 3] and the sky [E, 3].

    ra and dec are degrees from the reference (RA not times cos dec), nuisances included.
    """

    sersic: Array
    point: Array
    sky: Array


def scene_rows(theta: Array, scene: Scene, patch: Patch) -> Rows:
    """Gather the rows of every component in every exposure.

    Parameters
    ----------
    theta : Array
        [n] parameters.
    """
    values = jnp.concatenate([theta, scene.constants.astype(theta.dtype)])
    nuisance = values[scene.nuisance_index]
    dra, ddec, scale = (nuisance[:, None, i] for i in range(3))
    to_ra = 1.0 / (3600.0 * scene.cos_dec.astype(theta.dtype))

    def rows(index: Array, link: Link | None = None) -> Array:
        row = values[index]
        if link is not None:
            row = _linked(row, values[link.index] * link.weight.astype(values.dtype))
        row = row[patch.exposure_band]
        head = [
            row[..., 0] * scale * patch.g[:, None],
            (row[..., 1] + dra) * to_ra,
            (row[..., 2] + ddec) / 3600.0,
        ]
        return jnp.concatenate([jnp.stack(head, -1), row[..., 3:]], -1)

    return Rows(rows(scene.sersic_index, scene.link), rows(scene.point_index), nuisance[:, 3:])


def _linked(row: Array, shift: Array) -> Array:
    """Rows [B, C, 7] with shapes changed; kept to what the mixtures and an ellipse can be."""
    e = row[..., 5:] + shift[..., 2:]
    square = (e * e).sum(-1, keepdims=True)
    e = e * jnp.where(square > LARGEST_E**2, LARGEST_E / jnp.sqrt(jnp.maximum(square, 0.1)), 1.0)
    rhalf = row[..., 3:4] * jnp.exp(shift[..., :1])
    sersic = jnp.clip(row[..., 4:5] + shift[..., 1:2], N_MIN, N_MAX)
    return jnp.concatenate([row[..., :3], rhalf, sersic, e], -1)


def _centre(ra: Array, dec: Array, cw: Array, crpix: Array, crval: Array) -> tuple[Array, Array]:
    dra, ddec = ra - crval[..., 0], dec - crval[..., 1]
    x = cw[..., 0, 0] * dra + cw[..., 0, 1] * ddec + crpix[..., 0]
    y = cw[..., 1, 0] * dra + cw[..., 1, 1] * ddec + crpix[..., 1]
    return x, y


def sersic_gaussians(row: Array, source: Array, patch: Patch, mixture: Mixture) -> Gaussians:
    """Convolved Gaussians [E, C, P] of Sersic components with rows [E, C, 7].

    With `Patch.terms` they are its rows, [E, N, Q].
    """
    amplitude, variance = mixture.evaluate(row[..., 4], row[..., 3])
    at = (slice(None), source)
    if patch.terms is None:
        psf, index = Gaussians(*(field[at] for field in patch.psf)), patch.psf_bin[:, None, :]
    else:
        psf, index, component = patch.terms
        row, amplitude, variance = (a[:, component] for a in (row, amplitude, variance))
        at = (slice(None), source[component])
    flux, ra, dec, _, _, e1, e2 = (row[..., i] for i in range(len(ROW)))
    index = jnp.broadcast_to(index, (*row.shape[:2], index.shape[-1]))
    amplitude = jnp.take_along_axis(amplitude, index, -1)
    variance = jnp.take_along_axis(variance, index, -1)
    x, y = _centre(ra, dec, patch.cw[at], patch.crpix[at], patch.crval[at])
    cxx, cyy, cxy = transform_covariance(patch.d[at], *shape_matrix(e1, e2))
    return Gaussians(
        flux[..., None] * amplitude * psf.flux,
        x[..., None] + psf.x,
        y[..., None] + psf.y,
        variance * cxx[..., None] + psf.cxx,
        variance * cyy[..., None] + psf.cyy,
        variance * cxy[..., None] + psf.cxy,
    )


def point_gaussians(row: Array, source: Array, patch: Patch) -> Gaussians:
    """Gaussians [E, Q, J] of point sources with rows [E, Q, 3]."""
    at = (slice(None), source)
    x, y = _centre(row[..., 1], row[..., 2], patch.cw[at], patch.crpix[at], patch.crval[at])
    psf = Gaussians(*(field[at] for field in patch.psf_point))
    return Gaussians(row[..., :1] * psf.flux, x[..., None] + psf.x, y[..., None] + psf.y, *psf[3:])


def row_gaussians(rows: Rows, scene: Scene, patch: Patch, mixture: Mixture) -> Array:
    """All Gaussians of the scene, stacked [E, 6, C*P + Q*J] (N*Q instead of C*P with terms)."""
    e = patch.n_exposures
    sersic = stack(sersic_gaussians(rows.sersic, scene.sersic_source, patch, mixture))
    point = stack(point_gaussians(rows.point, scene.point_source, patch))
    flat = [jnp.swapaxes(a, 1, 2).reshape(e, 6, -1) for a in (sersic, point)]
    return jnp.concatenate(flat, -1)
