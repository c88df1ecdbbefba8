"""The image a mixture is fitted to, as rows of decreasing resolution plus encircled energy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage, sparse

from jaxpho.errors import InputError
from psfmix.centroid import moment_rows, shape_rows, weight_widths

# Half width (native px, and in units of the FWHM) of the square kept at full resolution.
_CORE_PIXELS = 8.0
_CORE_FWHM = 3.0
_BLOCKS = (8, 4, 2)
# Radii (native px) of the encircled-energy rows; beyond the last they grow by a factor to the edge.
_EE_RADII = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 13, 16, 20)
_EE_GROWTH = 1.3
_EE_REPORT = (1, 2, 3, 4, 5)
# Circles say nothing about direction: from this radius (native px) on, the light between successive
# circles is also counted in sectors, or one diffraction spike may take all of a PSF's wings.
_SECTORS_FROM = 2.0
_SECTORS = 8
# Relative to the circles' rows: enough to place the wings, little enough to leave the core alone.
_SECTOR_WEIGHT = 0.5
# A shift by the FWHM counts as this part of the whole flux.
_CENTROID_WEIGHT = 2.0
# An ellipticity of 1 counts as this part of it: few components must not lay the wings to one side.
_SHAPE_WEIGHT = 0.3
# Median along the edge, of the maximum, above which an image is no PSF.
_NO_PEAK = 0.8


@dataclass(frozen=True)
class Target:
    """A PSF image prepared for fitting. Lengths in native pixels, values per native pixel^2.

    Attributes
    ----------
    image : array (ny, nx)
        Trimmed, scaled so that it sums to `total`; unusable pixels are NaN.
    center : (x, y)
        Reference point of the mixture in pixels of `image`.
    oversample : float
        Image pixels per native pixel.
    pixel_variance : float
        Variance of the image pixel removed from stored covariances (0 when it is kept).
    total : float
        What the amplitudes are to sum to.
    groups : list of (slice, extra variance)
        Rows that share one block size.
    x, y, value, weight : arrays (nrow,)
        Block centres relative to `center`, mean surface brightness, weight.
    cells : sparse array (nradii + nsector, nrow)
        ``cells @ brightness`` is the flux between successive radii, then (at a lower weight) in
        each sector of each annulus. Most of it is zero: see `energies`.
    moments : array (2 nwidth, nrow)
        ``moments @ difference`` are the shifts (native px, all x, then all y) that a difference
        of images makes in weighted centroids, see `psfmix.centroid`.
    shapes : array (2 nwidth, nrow)
        ``shapes @ difference`` are the ellipticities (all (xx - yy), then all 2 xy, over xx + yy)
        that a difference of images adds under the same weights.
    ee_radii : array (nradii,)
    ee_center : (x, y)
        Where the circles are centred: the centroid of the core, relative to `center`.
    peak : float
        Largest surface brightness.
    """

    image: np.ndarray
    center: tuple[float, float]
    oversample: float
    pixel_variance: float
    total: float
    groups: list
    x: np.ndarray
    y: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    cells: sparse.csr_array
    moments: np.ndarray
    shapes: np.ndarray
    ee_radii: np.ndarray
    ee_center: tuple[float, float]
    peak: float
    halfsize: float
    fwhm: float

    def energies(self, brightness):
        """Flux in each circle, then (at lower weight) each sector of each annulus, and moments.

        Parameters
        ----------
        brightness : array (..., nrow)
            Values of one or more images (or derivatives) on the target's rows.

        Returns
        -------
        array (..., nradii + nsector + 4 nwidth)
            The last ones are first and second moments in fluxes: that of a shift by the FWHM is
            `_CENTROID_WEIGHT` times the total, that of an ellipticity of 1 `_SHAPE_WEIGHT` times.
        """
        rows = np.reshape(brightness, (-1, len(self.x)))
        out = (self.cells @ rows.T).T
        circles = len(self.ee_radii)
        out[:, :circles] = np.cumsum(out[:, :circles], axis=1)
        shifts = rows @ self.moments.T * (_CENTROID_WEIGHT * self.total / self.fwhm)
        shapes = rows @ self.shapes.T * (_SHAPE_WEIGHT * self.total)
        out = np.concatenate([out, shifts, shapes], axis=1)
        return out.reshape(*np.shape(brightness)[:-1], -1)

    def shift(self, difference):
        """Largest shift (native px) that a difference of images makes in weighted centroids."""
        return float(np.max(np.hypot(*np.reshape(self.moments @ difference, (2, -1)))))

    def ellipticity(self, difference):
        """Largest ellipticity that a difference of images adds."""
        return float(np.max(np.hypot(*np.reshape(self.shapes @ difference, (2, -1)))))

    @cached_property
    def ee(self):
        """Array (nradii, nrow): ``ee @ brightness`` is the flux inside each circle."""
        return np.cumsum(self.cells[: len(self.ee_radii)].toarray(), axis=0)

    @cached_property
    def ee_reported(self):
        """Mask of the circles at 1, 2, 3, 4 and 5 native pixels."""
        return np.isin(self.ee_radii, _EE_REPORT)

    def grid(self):
        """x and y (native px from `center`) of every image pixel."""
        ny, nx = self.image.shape
        x = (np.arange(nx) - self.center[0]) / self.oversample
        y = (np.arange(ny) - self.center[1]) / self.oversample
        return np.meshgrid(x, y)


def build_target(
    image,
    *,
    oversample=1.0,
    includes_pixel=False,
    normalize="unit",
    trim=0,
    center=None,
    weight=None,
    smallest=1,
):
    """Check a PSF image and lay it out for the fit; arguments as in `psfmix.fit.fit_mixture`.

    `smallest` is the side, in image pixels, of the smallest block: a coarser target is faster.
    """
    image, weight, center, valid, total = check_image(
        image,
        oversample=oversample,
        normalize=normalize,
        trim=trim,
        center=center,
        weight=weight,
    )
    if normalize == "unit":
        image, total = image / total, 1.0
    image = np.where(valid, image, np.nan)
    density = image * oversample**2
    peak = float(np.nanmax(density))
    fwhm = 2 * np.sqrt(np.count_nonzero(density > peak / 2) / np.pi) / oversample
    core = max(_CORE_PIXELS, _CORE_FWHM * fwhm)
    labels, sizes = _label_blocks(valid, center, core * oversample, max(2.0, oversample), smallest)
    pixel_variance = 0.0 if includes_pixel else 1 / (12 * oversample**2)
    ny, nx = image.shape
    gx, gy = np.meshgrid(
        (np.arange(nx) - center[0]) / oversample, (np.arange(ny) - center[1]) / oversample
    )
    flat, chosen = valid.ravel(), labels.ravel()[valid.ravel()]
    count = np.bincount(chosen, minlength=len(sizes))

    def mean(array):
        return np.bincount(chosen, array.ravel()[flat], len(sizes)) / count

    groups = [
        (
            slice(int(rows[0]), int(rows[-1]) + 1),
            (size**2 - 1) / (12 * oversample**2) + pixel_variance,
        )
        for size in np.unique(sizes)
        for rows in [np.flatnonzero(sizes == size)]
    ]
    near = valid & (np.hypot(gx, gy) < max(3.0, 1.5 * fwhm)) & (density > 0.1 * peak)
    ee_center = (0.0, 0.0)
    if near.any():
        ee_center = tuple(float(np.average(g[near], weights=density[near])) for g in (gx, gy))
    halfsize = min(nx, ny) / (2 * oversample)
    radii = _ee_radii(halfsize)
    distance = np.hypot(gx - ee_center[0], gy - ee_center[1]).ravel()[flat]
    # Pixels, not blocks, are counted between the circles.
    rings = sparse.coo_array(
        (np.full(len(chosen), oversample**-2.0), (np.searchsorted(radii, distance), chosen)),
        shape=(len(radii), len(sizes)),
    )
    x, y = mean(gx), mean(gy)
    area = count / oversample**2
    from_center = x - ee_center[0], y - ee_center[1]
    sectors = _sectors(*from_center, area, radii)
    value, widths = mean(density), weight_widths(fwhm, halfsize)
    return Target(
        image=image,
        center=center,
        oversample=oversample,
        pixel_variance=pixel_variance,
        total=total,
        groups=groups,
        x=x,
        y=y,
        value=value,
        weight=np.sqrt(mean(weight / np.max(weight)) * count),
        cells=sparse.vstack([rings, _SECTOR_WEIGHT * sectors], format="csr"),
        moments=np.concatenate(moment_rows(*from_center, area, value, widths)),
        shapes=np.concatenate(shape_rows(*from_center, area, value, widths)),
        ee_radii=radii,
        ee_center=ee_center,
        peak=peak,
        halfsize=halfsize,
        fwhm=float(fwhm),
    )


def check_image(
    image, *, oversample=1.0, normalize="unit", trim=0, center=None, weight=None, ngauss=1
):
    """Whether a PSF image can be fitted; arguments as in `psfmix.fit.fit_mixture`. Cheap.

    Returns
    -------
    image, weight : arrays, trimmed
    center : (x, y) in pixels of the trimmed image
    valid : bool array, pixels that count
    total : float, sum of the image; pixels that do not count are replaced by their opposites

    Raises
    ------
    InputError
        One sentence, without the file's name, which the caller knows.
    """
    image, weight, center = _checked(image, oversample, normalize, trim, center, weight)
    valid = np.isfinite(image) & (weight > 0)
    if not valid.any():
        raise InputError("PSF image has no finite pixel")
    total = float(np.where(valid, image, _opposite(image, valid, center)).sum())
    if not (np.max(image[valid]) > 0 and total > 0):
        raise InputError(
            f"PSF image has maximum {np.max(image[valid]):.3g} and sum {total:.3g}; "
            "both must be positive"
        )
    if ngauss < 1 or 6 * ngauss > np.count_nonzero(valid):
        raise InputError(
            f"PSF image has {np.count_nonzero(valid)} usable pixels for {ngauss} Gaussians of 6 "
            "parameters each"
        )
    edge = np.ones(image.shape, bool)
    edge[1:-1, 1:-1] = False
    edge, peak = np.median(image[edge & valid]) if (edge & valid).any() else 0.0, image[valid].max()
    if edge > _NO_PEAK * peak:
        raise InputError(
            f"PSF image has no peak: its maximum is {peak:.3g}, the median along its edge "
            f"{edge:.3g}"
        )
    if (min(image.shape) - 1) / 2 < oversample:
        raise InputError(
            f"PSF image of {image.shape[1]} x {image.shape[0]} samples, {oversample:g} per pixel, "
            "does not reach 1 pixel from its middle: is the oversampling right?"
        )
    return image, weight, center, valid, total


def _checked(image, oversample, normalize, trim, center, weight):
    image = np.asarray(image, dtype=float)
    if image.ndim != 2:
        raise InputError(f"PSF image has shape {image.shape}; expected a 2-D image")
    if not (np.isfinite(oversample) and oversample > 0):
        raise InputError(f"PSF oversampling is {oversample}; expected a positive number")
    if normalize not in ("unit", "stamp"):
        raise InputError(f"PSF normalisation is {normalize!r}; expected 'unit' or 'stamp'")
    if trim < 0 or 2 * trim >= min(image.shape):
        raise InputError(f"PSF trim of {trim} pixels leaves nothing of an image {image.shape}")
    weight = np.ones_like(image) if weight is None else np.asarray(weight, dtype=float)
    if weight.shape != image.shape:
        raise InputError(f"PSF weight has shape {weight.shape}; the image has {image.shape}")
    if trim:
        image, weight = image[trim:-trim, trim:-trim], weight[trim:-trim, trim:-trim]
    ny, nx = image.shape
    if center is None:
        center = ((nx - 1) / 2, (ny - 1) / 2)
    else:
        center = (float(center[0]) - trim, float(center[1]) - trim)
    return image, np.nan_to_num(weight, posinf=0.0), center


def _opposite(image, valid, center):
    """Value at the point-symmetric pixel, or the mean around where that is unusable too.

    It stands in for a bad pixel.
    """
    ny, nx = image.shape
    iy, ix = np.indices(image.shape)
    iy, ix = (np.rint(2 * c - k).astype(int) for c, k in ((center[1], iy), (center[0], ix)))
    inside = (iy >= 0) & (iy < ny) & (ix >= 0) & (ix < nx)
    iy, ix = np.where(inside, iy, 0), np.where(inside, ix, 0)
    near = ndimage.uniform_filter(np.where(valid, image, 0.0), 3, mode="constant")
    count = ndimage.uniform_filter(valid * 1.0, 3, mode="constant")
    near = np.where(count > 0.05, near / np.maximum(count, 0.05), 0.0)
    return np.where(inside & valid[iy, ix], image[iy, ix], near)


def _label_blocks(valid, center, core, first, smallest):
    """Number every usable pixel by its block; blocks grow from 1 to 8 pixels with the distance.

    Outside `core` (half width, image pixels) they are up to `first` pixels wide, and wider in
    proportion to the distance. A block is used only when all of its pixels are usable, so that
    its extra variance is that of a full square; other pixels fall through to smaller blocks.

    Returns
    -------
    labels : int array, shape of `valid`; -1 where unusable
    sizes : int array (nblock,): block side in pixels, ascending with the label
    """
    iy, ix = np.indices(valid.shape)
    px, py = ix - int(round(center[0])), iy - int(round(center[1]))
    free = valid.copy()
    pieces = []
    for size in (*_BLOCKS, 1):
        bx, by = px // size, py // size
        inner = core * max(1.0, size / first) if size > smallest else 0.0
        far = (np.abs((bx + 0.5) * size) > inner) | (np.abs((by + 0.5) * size) > inner)
        candidates = free & far if size > 1 else free
        key = (by - by.min()) * (bx.max() - bx.min() + 1) + (bx - bx.min())
        full = np.bincount(key[candidates], minlength=key.max() + 1) == size**2
        chosen = candidates & full[key]
        pieces.append((size, chosen, key))
        free &= ~chosen
    labels = np.full(valid.shape, -1)
    sizes = []
    for size, chosen, key in reversed(pieces):
        if chosen.any():
            unique, inverse = np.unique(key[chosen], return_inverse=True)
            labels[chosen] = inverse + len(sizes)
            sizes.extend([size] * len(unique))
    return labels, np.array(sizes)


def _ee_radii(halfsize):
    radii = list(_EE_RADII)
    while radii[-1] * _EE_GROWTH < halfsize:
        radii.append(radii[-1] * _EE_GROWTH)
    kept = [r for r in radii if r < halfsize]
    return np.array([*kept, 1e9])


def _sectors(x, y, area, radii):
    """Sparse rows that add up the blocks (centres x, y) in every sector of every annulus."""
    inner = [r for r in radii if r >= _SECTORS_FROM]
    ring = np.searchsorted(inner, np.hypot(x, y)) - 1
    turn = np.arctan2(y, x) / (2 * np.pi) % 1
    columns = np.flatnonzero(ring >= 0)
    label = ring[columns] * _SECTORS + (turn[columns] * _SECTORS).astype(int)
    kept, label = np.unique(label, return_inverse=True)
    return sparse.coo_array((area[columns], (label, columns)), shape=(len(kept), len(x)))
