"""The PSF of an exposure as Gaussian mixtures at one or more positions of its detector."""

from dataclasses import dataclass, field, replace

import numpy as np

from jaxpho.data.locations import location_weights, mean_mixture
from jaxpho.errors import InputError

PSF_DTYPE = np.dtype(
    [
        ("amp", "f4"),
        ("xcr", "f4"),
        ("ycr", "f4"),
        ("Cxx", "f4"),
        ("Cyy", "f4"),
        ("Cxy", "f4"),
        ("sersic_bin", "i4"),
    ]
)
"""One PSF Gaussian: amplitude, centre and covariance in native pixels, Sersic radius (-1: all)."""

FLOATS = ("amp", "xcr", "ycr", "Cxx", "Cyy", "Cxy")
"""The fields that are averaged between locations."""
_SUMS = ("stamp", "unit")


@dataclass(frozen=True)
class ReducedPSF:
    """A smaller mixture that serves for the wide Gaussians of a galaxy.

    Attributes
    ----------
    width : float
        Sigma (of the minor axis, native pixels) of the Gaussian from which on it may be used.
    parameters : structured array of `PSF_DTYPE`, shape (nloc, ngauss)
        For the locations of the full mixture; ``sersic_bin`` is -1.
    error : float
        Largest difference from the full mixture, both convolved with such a Gaussian, round or
        elongated, of the latter's peak.
    """

    width: float
    parameters: np.ndarray
    error: float


@dataclass(frozen=True)
class PSFModel:
    """The PSF of one exposure (or band) as Gaussian mixtures at one or more detector positions.

    Attributes
    ----------
    parameters : structured array of `PSF_DTYPE`, shape (nloc, ngauss)
        Centres relative to the PSF's reference point in native pixels, covariances in native
        pixels^2. ``sersic_bin`` is -1 when a Gaussian applies to every Sersic radius, else the
        index of the radius it applies to (forcepho's stores).
    locations : array (nloc, 2) or None
        x, y pixel (0-indexed) of each mixture; None when there is one mixture.
    includes_pixel : bool
        The mixture already contains the detector pixel: render without a pixel integral.
    amplitude_sum : {"unit", "stamp"}
        What the amplitudes sum to: 1, or the sum of the PSF image they were fitted to.
    attrs : dict
        Other attributes of the store's group (provenance, fit quality).
    reduced : tuple of ReducedPSF
        Smaller mixtures for wide Gaussians, of several widths and accuracies; may be empty.
    """

    parameters: np.ndarray
    locations: np.ndarray | None = None
    includes_pixel: bool = False
    amplitude_sum: str = "stamp"
    attrs: dict = field(default_factory=dict, compare=False)
    reduced: tuple[ReducedPSF, ...] = field(default=(), compare=False)

    def __post_init__(self):
        parameters = np.atleast_2d(np.asarray(self.parameters))
        if parameters.ndim != 2 or parameters.size == 0:
            raise InputError(
                f"PSF parameters have shape {parameters.shape}; expected (locations, Gaussians)"
            )
        check_gaussians(parameters, "PSF parameters")
        locations = self.locations
        nloc = len(parameters)
        if locations is not None:
            locations = np.atleast_2d(np.asarray(locations, dtype=float))
            if locations.shape != (nloc, 2):
                raise InputError(
                    f"PSF locations have shape {locations.shape}; expected ({nloc}, 2): "
                    "x, y of each mixture"
                )
            if not np.all(np.isfinite(locations)):
                raise InputError("PSF locations must be finite numbers")
            if len(np.unique(locations, axis=0)) < nloc:
                raise InputError("two PSF mixtures share the same detector location")
        elif nloc > 1:
            raise InputError(f"{nloc} PSF mixtures need {nloc} detector locations; none were given")
        if self.amplitude_sum not in _SUMS:
            raise InputError(
                f"PSF amplitude_sum is {self.amplitude_sum!r}; expected one of {_SUMS}"
            )
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "locations", locations)
        object.__setattr__(self, "reduced", tuple(self.reduced))
        check_reduced(self.reduced, len(parameters), "reduced PSF mixtures")

    @property
    def ngauss(self):
        """Number of Gaussians per source, over all Sersic radii."""
        return self.parameters.shape[1]

    def at(self, x=0.0, y=0.0, method="linear"):
        """The mixture at one detector position.

        Parameters
        ----------
        x, y : float
            Pixel position, 0-indexed.
        method : {"linear", "nearest"}
            "linear" is barycentric between three or more locations that are not on a line
            (positions outside their hull take the value at the nearest point of the hull) and
            inverse-distance weighted otherwise; "nearest" is forcepho's choice.

        Returns
        -------
        structured array of `PSF_DTYPE`, shape (ngauss,)
            Components stay in correspondence: see `jaxpho.data.locations.mean_mixture`.
        """
        return mean_mixture(self.parameters, self._weights(x, y, method))

    def ladder_at(self, x=0.0, y=0.0, method="linear"):
        """The reduced mixtures at one detector position.

        Parameters
        ----------
        x, y, method
            See `at`.

        Returns
        -------
        tuple of ReducedPSF
            Of one location.
        """
        if not self.reduced:
            return ()
        weights = self._weights(x, y, method)
        return tuple(
            replace(rung, parameters=mean_mixture(rung.parameters, weights)[None])
            for rung in self.reduced
        )

    def _weights(self, x, y, method):
        """Weight of each location [nloc]."""
        if len(self.parameters) == 1:
            return np.ones(1)
        return location_weights(self.locations, x, y, method)

    def with_reduced(self, reduced):
        """The model with other reduced mixtures (a sequence of `ReducedPSF`)."""
        return replace(self, reduced=tuple(reduced))

    def collapsed(self):
        """The model with one mixture for all radii, or None when the radii differ.

        forcepho repeats a mixture for each of its Sersic radii; where the repetitions agree a
        single copy (``sersic_bin`` -1) serves any Sersic table.
        """
        bins = self.parameters["sersic_bin"][0]
        if np.all(bins == -1):
            return self
        radii = np.unique(bins)
        blocks = [self.parameters[:, bins == radius] for radius in radii]
        first = blocks[0].copy()
        for block in blocks[1:]:
            if block.shape != first.shape or any(
                not np.array_equal(block[name], first[name]) for name in FLOATS
            ):
                return None
        first["sersic_bin"] = -1
        return replace(self, parameters=first)

    def single(self):
        """The model with one mixture for all radii, whatever the store.

        Where forcepho's mixtures differ between radii (fewer Gaussians for large ones) it is that
        of the smallest radius, the most detailed.
        """
        found = self.collapsed()
        if found is None:
            bins = self.parameters["sersic_bin"][0]
            first = self.parameters[:, bins == bins.min()].copy()
            first["sersic_bin"] = -1
            found = replace(self, parameters=first, reduced=())
        return found

    def repeated(self, nradii):
        """The model with its mixture written out for each of `nradii` Sersic radii."""
        single = self.collapsed()
        if single is None:
            raise InputError("this PSF model already has different mixtures per Sersic radius")
        parameters = np.tile(single.parameters, (1, nradii))
        parameters["sersic_bin"] = np.repeat(np.arange(nradii), single.ngauss)
        return replace(self, parameters=parameters)


def check_gaussians(parameters, where):
    """Raise InputError unless every Gaussian is finite with a positive definite covariance."""
    if parameters.dtype != PSF_DTYPE:
        raise InputError(f"{where} have dtype {parameters.dtype}; expected {PSF_DTYPE}")
    if not all(np.all(np.isfinite(parameters[name])) for name in FLOATS):
        raise InputError(f"{where} hold values that are not finite")
    cxx, cyy, cxy = (parameters[name].astype(float) for name in ("Cxx", "Cyy", "Cxy"))
    # A zero amplitude is padding (forcepho's ragged stores), whatever its covariance.
    used = parameters["amp"] != 0
    if np.any(used & ~((cxx > 0) & (cyy > 0) & (cxx * cyy > cxy**2))):
        raise InputError(f"{where} hold a Gaussian whose covariance is not positive definite")
    bins = parameters["sersic_bin"]
    if np.any(bins < -1) or np.any(bins != bins[:1]):
        raise InputError(f"{where} have a sersic_bin that is below -1 or differs between locations")


def check_reduced(reduced, nloc, where):
    """Raise InputError unless every reduced mixture has a width, an error and usable Gaussians."""
    for rung in reduced:
        found = np.shape(rung.parameters)
        if not (len(found) == 2 and found[0] == nloc and found[1] > 0):
            raise InputError(f"{where} have shape {found}; expected ({nloc}, Gaussians)")
        for name in ("width", "error"):
            value = getattr(rung, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"{where} have the {name} {value}; expected a positive number")
        check_gaussians(rung.parameters, where)
