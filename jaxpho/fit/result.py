"""What the fit of one patch hands to everything downstream."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass
class PatchResult:
    """The fit of one patch: S sources, E exposures, npar free parameters.

    Positions are offsets in arcsec (RA times cos dec, dec) from `reference`; fluxes are in `unit`;
    rhalf is in arcsec.

    Attributes
    ----------
    patch_id : number of the patch in its run.
    source_ids, types : per source.
    bands, unit : band order, and the unit of every flux.
    reference : (ra, dec) in degrees.
    labels : per parameter (owner, name, band); owner is the source index or
        ("exposure", name); band is "" for parameters without one.
    theta : [npar] maximum a posteriori values.
    covariance : [npar, npar] Laplace covariance at `theta`.
    fixed : (source index, name, band) -> value held fixed.
    samples : [nchain, ndraw, npar] in the columns of `theta`, or None.
    start : [npar] starting values of `theta`, or None.
    bounds : [npar, 2] lowest and highest value of each parameter, infinite where it has none (of
        e1 and e2: minus and plus the largest ellipticity), or None.
    statistics : name -> [nchain, ndraw] of every draw: step_size, diverging, n_steps, accept,
        energy, potential (`jaxpho.fit.draws.STATISTICS`); empty without draws.
    warmup : [nchain, nwarmup, npar] the sampler's warm-up, or None.
    warmup_statistics : as `statistics`, [nchain, nwarmup].
    mass_matrix_initial, mass_matrix_final : [npar, npar] mass matrix of the sampler in its
        unconstrained parameters (`jaxpho.fit.transforms`), at its first and at its last
        iteration, or None.
    astrometry : exposure name -> {"D", "CW": [S, 2, 2], "crpix", "crval": [S, 2]} as packed:
        pixel/arcsec, pixel/deg, absolute pixels, degrees from `reference`.
    diagnostics : rhat [npar], ess [npar], divergences, accept, step_size, gradients ...
    at_bound : [npar] bool.
    flags : [S] bit mask of `jaxpho.fit.flags`.
    chi2, npix : [E] over the unmasked pixels of the patch.
    source_chi2, source_npix, source_nexp : [S] within the source's own area.
    source_p_value, source_residual_peak : [S] see `jaxpho.fit.mismatch.Mismatch`.
    source_band_npix : [S, B] the pixels by band; a flux in a band with none is not measured.
    exposures, exposure_bands : [E] names and bands.
    pixels : exposure name -> {"x", "y": int [n], "data", "ierr", "model": float32 [n]}, without
        padding; x and y are 0-indexed pixels of the exposure.
    choices : [S] how `auto` chose the type: {"type", "chi2": {type: chi2 minus that of the chosen
        type}, "score": the same with the penalty}, or None.
    messages : what was decided, and warnings.
    n_active : how many of the sources, the first ones, were fitted here; the others are neighbours
        that were held. None where this is not known.
    seconds : wall time by stage.
    """

    patch_id: int
    source_ids: list
    types: list[str]
    bands: list[str]
    unit: str
    reference: tuple[float, float]
    labels: list[tuple]
    theta: np.ndarray
    covariance: np.ndarray
    fixed: dict = field(default_factory=dict)
    samples: np.ndarray | None = None
    start: np.ndarray | None = None
    bounds: np.ndarray | None = None
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    warmup: np.ndarray | None = None
    warmup_statistics: dict[str, np.ndarray] = field(default_factory=dict)
    mass_matrix_initial: np.ndarray | None = None
    mass_matrix_final: np.ndarray | None = None
    astrometry: dict[str, dict] = field(default_factory=dict)
    diagnostics: dict = field(default_factory=dict)
    at_bound: np.ndarray | None = None
    flags: np.ndarray | None = None
    chi2: np.ndarray | None = None
    npix: np.ndarray | None = None
    source_chi2: np.ndarray | None = None
    source_p_value: np.ndarray | None = None
    source_residual_peak: np.ndarray | None = None
    source_npix: np.ndarray | None = None
    source_nexp: np.ndarray | None = None
    source_band_npix: np.ndarray | None = None
    exposures: list[str] = field(default_factory=list)
    exposure_bands: list[str] = field(default_factory=list)
    pixels: dict[str, dict] = field(default_factory=dict)
    choices: list[dict | None] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    seconds: dict = field(default_factory=dict)
    n_active: int | None = None

    def __post_init__(self):
        npar, nsource, nexp = len(self.labels), len(self.source_ids), len(self.exposures)
        defaults = {
            "at_bound": np.zeros(npar, bool),
            "flags": np.zeros(nsource, np.int64),
            "chi2": np.zeros(nexp),
            "npix": np.zeros(nexp, np.int64),
            "source_chi2": np.full(nsource, np.nan),
            "source_p_value": np.full(nsource, np.nan),
            "source_residual_peak": np.full(nsource, np.nan),
            "source_npix": np.zeros(nsource, np.int64),
            "source_nexp": np.zeros(nsource, np.int64),
            "choices": [None] * nsource,
            "source_band_npix": np.ones((nsource, len(self.bands)), np.int64),
        }
        for name, value in defaults.items():
            if getattr(self, name) is None or name == "choices" and not self.choices:
                setattr(self, name, value)

    def index(self, owner, name: str, band: str = "") -> int | None:
        """Column of a free parameter in `theta`, or None when it is not free."""
        if not hasattr(self, "_index"):
            self._index = {tuple(label): i for i, label in enumerate(self.labels)}
        return self._index.get((owner, name, band))

    def measured(self, owner, band: str) -> bool:
        """Whether a source has pixels in a band (True for what is not a flux)."""
        if not band or not isinstance(owner, int):
            return True
        return bool(self.source_band_npix[owner, self.bands.index(band)] > 0)

    def summary(self) -> str:
        """Free parameters as text: value and error, of the draws when there are any."""
        lines = [f"{'source':>10} {'parameter':<14}{'band':<8}{'value':>12} {'error':>10}"]
        for i, (owner, name, band) in enumerate(self.labels):
            value, error = self.theta[i], self.covariance[i, i] ** 0.5
            if self.samples is not None:
                value, error = self.samples[..., i].mean(), self.samples[..., i].std()
            source = self.source_ids[owner] if isinstance(owner, int) else owner[1]
            lines.append(f"{source!s:>10} {name:<14}{band:<8}{value:12.5g} {error:10.3g}")
        chi2 = f"chi2 {self.chi2.sum():.1f} for {self.npix.sum()} pixels"
        return "\n".join([*lines, f"{chi2}; ra, dec, rhalf in arcsec, fluxes in {self.unit}"])
