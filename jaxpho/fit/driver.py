"""Fit one packed patch: starts, optimum with restarts, errors, draws, flags."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np

from jaxpho.core.sources import SHAPE, SOURCE_TYPES, base_name
from jaxpho.fit import quality, verdict
from jaxpho.fit.advice import astrometry_gain
from jaxpho.fit.blur import mixture_needed, too_coarse
from jaxpho.fit.checkpoint import Checkpoint
from jaxpho.fit.choose import messages_of, resolve, uncertain
from jaxpho.fit.draws import Draws
from jaxpho.fit.mismatch import judge, psf_widths
from jaxpho.fit.optimize import Optimum, optimize
from jaxpho.fit.options import FitOptions, NoiseOptions, SampleOptions
from jaxpho.fit.parameters import ParameterTable
from jaxpho.fit.posterior import Static, model_of, to_unconstrained
from jaxpho.fit.problem import astrometry_of, make_problem
from jaxpho.fit.reduce import WORTH, reduce_problem, shape_limits, worth_of
from jaxpho.fit.result import PatchResult
from jaxpho.fit.start import source_starts
from jaxpho.fit.treatment import NoiseTreatment, scaled_errors
from jaxpho.fit.uncertainty import draw, laplace

log = logging.getLogger("jaxpho.fit")

RESTART_PROFILES = ((1.0, 1.0), (4.0, 1.3), (2.0, 0.7), (0.7, 1.5))
"""(Sersic index, factor on rhalf) of the further starts of sources that look poor."""
BETTER = 0.1
"""A restart replaces the optimum when its objective (half chi2) is lower by this."""


def _restarts(table: ParameterTable, theta: np.ndarray, suspects: set[int], round_: int):
    """Another start: the suspects' profiles replaced, everything else at the optimum."""
    sersic, factor = RESTART_PROFILES[round_ % len(RESTART_PROFILES)]
    out = theta.copy()
    for i, p in enumerate(table.parameters):
        if p.owner not in suspects:
            continue
        base = base_name(p.name)
        if base == "sersic":
            out[i] = sersic
        elif base == "rhalf":
            out[i] = np.clip(p.start * factor, p.prior.low * 1.01, p.prior.high * 0.99)
        elif base in ("e1", "e2", "ra", "dec"):
            out[i] = p.start
    return out


class _Fitter:
    """The steps of a fit, sharing one problem."""

    def __init__(
        self, packed, peaks, options: FitOptions, mixture: str, noise: NoiseOptions, least=None
    ):
        self.noise = NoiseTreatment(packed, noise)
        self.packed, self.options, self.mixture = packed, options, mixture
        scale = np.abs(np.linalg.det(np.asarray(packed.patch.d)[: len(packed.exposures), :1]))
        self.pixel = float((scale**-0.5).max())
        self.starts = source_starts(
            peaks, packed.bands, packed.reference, pixel_scale=self.pixel, q_min=options.q_min
        )
        problem, self.table, self.n = make_problem(
            packed, self.starts, options, mixture, least=least
        )
        self.limits = shape_limits(self.table, self.starts)
        worth = worth_of(options, WORTH)
        problem, self.saved = reduce_problem(packed, problem, self.limits, worth)
        self.problem = self.noise.apply(problem)
        self.dtype = np.asarray(packed.patch.data).dtype
        self.static = Static(options.pixel_mode, 1 if jax.default_backend() == "cpu" else 64)
        self.linear = np.zeros(self.n, bool)
        self.linear[: len(self.table.parameters)] = self.table.linear
        self.normal = np.zeros(self.n, bool)
        self.normal[: len(self.table.parameters)] = self.table.normal
        shape = len(packed.exposures), packed.n_sources
        self.psf_pixels, arcsec = psf_widths(packed.patch, *shape)
        self.psf_sigma = float(arcsec.max())

    def optimize(self, theta: np.ndarray, problem=None, **kwargs) -> Optimum:
        problem = self.problem if problem is None else problem
        z = to_unconstrained(jnp.asarray(theta, self.dtype), problem.transform)
        given = {
            "static": self.static,
            "max_iterations": self.options.max_iterations,
            "tolerance": self.options.tolerance,
        }
        return optimize(np.asarray(z, np.float64), problem, self.linear, **given | kwargs)

    def named(self, theta: np.ndarray) -> dict[tuple, float]:
        """Label -> value of the free parameters."""
        return dict(zip(self.table.labels, theta.tolist(), strict=False))

    def theta_of(self, values: dict[tuple, float]) -> np.ndarray:
        """Free parameters from values by label; starts where there is none."""
        theta = self.table.start(self.n, np.float64)
        for i, label in enumerate(self.table.labels):
            theta[i] = values.get(label, theta[i])
        return theta

    def best(self, theta: np.ndarray | None = None) -> tuple[Optimum, int]:
        """Optimum from the given start, then from others where that looks poor."""
        best = self.first(self.table.start(self.n, self.dtype) if theta is None else theta)
        used = 0
        for round_ in range(self.options.restarts):
            suspects = self.suspects(best)
            if not suspects:
                break
            used += 1
            other = self.optimize(_restarts(self.table, best.theta, suspects, round_))
            if other.objective < best.objective - BETTER:
                best = other
        return best, used

    def first(self, theta: np.ndarray) -> Optimum:
        """Optimum from a start; with heavy tails, the better of that and of normal noise's."""
        if not self.noise.student:
            return self.optimize(theta)
        # far from the solution every pixel is an outlier
        plain = self.problem._replace(patch=self.problem.patch._replace(noise=None))
        found = [self.optimize(t) for t in (self.optimize(theta, plain).theta, theta)]
        return min(found, key=lambda optimum: optimum.objective)

    def reweigh(self, optimum: Optimum) -> Optimum:
        """The optimum with errors rescaled by its residuals, where that is asked for."""
        factors = self.noise.rescale(self.pixels(optimum))
        if factors is None:
            return optimum
        self.packed = self.noise.packed = scaled_errors(self.packed, factors)
        patch = self.problem.patch._replace(ierr=self.packed.patch.ierr)
        self.problem = self.problem._replace(patch=patch)
        return self.optimize(optimum.theta)

    def suspects(self, optimum: Optimum) -> set[int]:
        """Sources at a bound, with a poor chi2, or all when the optimiser did not converge."""
        n = len(self.table.parameters)
        owners = [p.owner for p in self.table.parameters]
        if not optimum.converged:
            return {o for o in owners if isinstance(o, int)}
        bound = quality.at_bound(self.table, optimum.theta[:n])
        out = {o for o, b in zip(owners, bound, strict=True) if b and isinstance(o, int)}
        area = self.areas(optimum, self.pixels(optimum))
        poor = area.chi2 > self.options.poor_chi2 * np.maximum(area.npix, 1)
        return (out | set(np.flatnonzero(poor).tolist())) & set(owners)

    def values(self, theta: np.ndarray, s: int) -> dict[str, float]:
        """Parameters without a band of a source, free or held."""
        out = {k: v for (o, k, b), v in self.table.fixed.items() if o == s and not b}
        for value, p in zip(theta, self.table.parameters, strict=False):
            if p.owner == s and not p.band:
                out[p.name] = float(value)
        return out

    def shapes(self, theta: np.ndarray) -> list[tuple[int, dict[str, float]]]:
        """(source, shape) of every Sersic component, parameters held by the type included."""
        out = []
        for s, start in enumerate(self.starts):
            values = self.values(theta, s)
            for component in SOURCE_TYPES[start.type].components:
                if component.profile == "sersic":
                    held = dict(component.fixed)
                    get = {k: held.get(k, values.get(k + component.suffix)) for k in SHAPE}
                    out.append((s, get))
        return out

    def pixels(self, optimum: Optimum) -> list[dict]:
        model = model_of(jnp.asarray(optimum.theta, self.dtype), self.problem, self.static)
        model = np.asarray(model)
        return [self.packed.pixels(e, model=model) for e in range(len(self.packed.exposures))]

    def geometry(self, optimum: Optimum):
        """Centres [E, S, 2] in pixels, D [E, S, 2, 2] and radii [S] of the sources' areas."""
        n_e, n_s = len(self.packed.exposures), self.packed.n_sources
        patch = self.problem.patch
        d = np.asarray(patch.d, np.float64)[:n_e, :n_s]
        reference = np.asarray(patch.crpix, np.float64) + np.asarray(patch.pix0)[:, None]
        centres = reference[:n_e, :n_s].copy()
        radii = np.zeros(n_s)
        for s, start in enumerate(self.starts):
            value = self.values(optimum.theta, s)
            shift = [value[k] - start.values[k, ""] for k in ("ra", "dec")]
            centres[:, s] += d[:, s] @ np.array(shift)
            radii[s] = quality.influence_radius(start.type, value, self.psf_sigma)
        return centres, d, radii

    def loss(self, optimum: Optimum, s: int) -> float:
        """What differences of chi2 are to be divided by where source s is concerned."""
        owned = np.zeros(self.n, bool)
        owned[: len(self.table.parameters)] = [p.owner == s for p in self.table.parameters]
        return self.noise.loss(optimum, self.problem, self.static, owned)

    def areas(self, optimum: Optimum, pixels: list[dict]) -> quality.SourceArea:
        judged = [{**p, "ierr": self.noise.effective_ierr(p)} for p in pixels]
        return quality.source_areas(
            judged, *self.geometry(optimum), self.packed.exposure_bands, self.packed.bands
        )


def _coordinate_covariance(covariance: np.ndarray, theta: np.ndarray, tr) -> np.ndarray:
    """Covariance of the natural coordinates (logarithms where these are the coordinate)."""
    scale = np.where(np.asarray(tr.log), 1.0 / np.maximum(np.abs(theta), 1e-300), 1.0)
    return covariance * np.outer(scale, scale)


def fit_patch(
    packed,
    peaks: Sequence,
    options: FitOptions | None = None,
    sampling: SampleOptions | None = None,
    *,
    noise: NoiseOptions | None = None,
    mixture: str = "k12",
    key: jax.Array | None = None,
    patch_id: int = 0,
    stop_if_coarse: bool = False,
    checkpoint: Checkpoint | None = None,
) -> PatchResult:
    """Fit all sources of a packed patch jointly.

    Parameters
    ----------
    packed : PackedPatch
        See `jaxpho.data.pack.pack_patch`.
    peaks : sequence of Peak
        The same sources, in the same order.
    options : FitOptions, optional
    sampling : SampleOptions, optional
        ``method="none"`` stops at the optimum and its Laplace errors.
    noise : NoiseOptions, optional
        Correlations are those of ``packed.noise``.
    mixture : str
        Sersic mixture.
    key : Array, optional
        PRNG key; needed for sampling.
    patch_id : int
    stop_if_coarse : bool
        Do not sample when a galaxy needs a finer mixture; ``diagnostics["needed"]`` names it.
    checkpoint : Checkpoint, optional
        Where the sampler keeps its state, to go on from when it was stopped.

    Returns
    -------
    PatchResult
    """
    options = options or FitOptions()
    sampling = sampling or SampleOptions(method="none")
    clock = time.perf_counter()
    noise = noise or NoiseOptions()

    def make(peaks, options, least=None):
        return _Fitter(packed, peaks, options, mixture, noise, least)

    peaks, known, choices = resolve(peaks, options, make)
    fitter = make(peaks, options)
    table, n = fitter.table, len(fitter.table.parameters)
    optimum, restarts = fitter.best(fitter.theta_of(known) if known else None)
    optimum = fitter.reweigh(optimum)
    messages = messages_of(peaks, choices)
    messages += [
        f"{n} parameters, {optimum.iterations} steps, {restarts} restarts, "
        + ("converged" if optimum.converged else "NOT converged")
    ]
    messages += [fitter.saved] if fitter.saved else []
    covariance, _ = laplace(optimum, fitter.problem)
    treated = fitter.noise.laplace(optimum, fitter.problem, fitter.static)
    if treated is not None:
        fitter.noise.tell_widening(covariance[:n, :n], treated[0][:n, :n])
        covariance = treated[0]
    messages += fitter.noise.messages
    pixels = fitter.pixels(optimum)
    areas = fitter.areas(optimum, pixels)
    mismatch = judge(fitter, optimum, pixels)
    chi = [((p["data"] - p["model"]) * p["ierr"]).astype(np.float64) for p in pixels]
    chi2 = np.array([c @ c for c in chi])
    npix = np.array([(p["ierr"] > 0).sum() for p in pixels])
    needed, blur = mixture_needed(
        packed.patch, len(packed.exposures), fitter.shapes(optimum.theta), mixture
    )
    if too_coarse(mixture, blur):
        messages.append(
            f"the PSF is only {blur:.2g} of a cuspy galaxy's half-light radius: mixture {mixture} "
            f"softens its centre, {needed} is made for it"
        )
    messages += astrometry_gain(fitter, optimum, chi2, npix, areas)
    seconds = {"map": time.perf_counter() - clock}
    draws = None
    if sampling.method != "none" and n and not (stop_if_coarse and needed != mixture):
        log.info(
            "patch %d: optimum after %d steps and %d restarts, chi2 = %.1f of %d pixels; sampling",
            patch_id, optimum.iterations, restarts, chi2.sum(), npix.sum(),
        )  # fmt: skip
        clock = time.perf_counter()
        draws, said = draw(fitter, optimum, sampling, key, f"patch {patch_id}: ", checkpoint)
        messages += said
        seconds["sample"] = time.perf_counter() - clock
        messages += verdict.messages(table, peaks, areas, draws, sampling)
    bound = quality.at_bound(table, optimum.theta[:n])
    found = verdict.diagnostics(optimum, draws, table)
    found["prior_dominated"] = _prior_dominated(fitter, optimum, covariance, draws)
    result = PatchResult(
        patch_id=patch_id,
        source_ids=[p.id for p in peaks],
        types=[p.type for p in peaks],
        bands=list(packed.bands),
        unit=packed.unit,
        reference=packed.reference,
        labels=table.labels,
        theta=optimum.theta[:n],
        covariance=covariance[:n, :n],
        fixed=dict(table.fixed),
        start=table.start(n, np.float64),
        bounds=table.bounds(),
        **({} if draws is None else draws.of_parameters(n)),
        astrometry=astrometry_of(packed),
        diagnostics=found | {"mixture": mixture, "needed": needed},
        at_bound=bound,
        flags=_flags(fitter, optimum, covariance, areas, mismatch, draws, bound, sampling, found)
        | uncertain(choices, options.type_tie),
        choices=[asdict(choice) if choice else None for choice in choices],
        chi2=chi2,
        npix=npix,
        source_chi2=areas.chi2,
        source_p_value=mismatch.p_value,
        source_residual_peak=mismatch.residual_peak,
        source_npix=areas.npix,
        source_nexp=areas.nexp,
        source_band_npix=areas.band_npix,
        exposures=packed.exposures,
        exposure_bands=packed.exposure_bands,
        pixels=dict(zip(packed.exposures, pixels, strict=True)),
        messages=messages,
        seconds=seconds,
    )
    for message in messages:
        warning = message.startswith("WARNING ")
        log.log(
            logging.WARNING if warning else logging.INFO,
            "patch %d: %s",
            patch_id,
            message.removeprefix("WARNING "),
        )
    return result


def _prior_dominated(fitter, optimum, covariance, draws: Draws | None) -> np.ndarray:
    """[n] bool: parameters of sources whose error (of the draws, if any) is that of the prior.

    A prior of given width means to say what the data do not, and does not count.
    """
    table, tr = fitter.table, fitter.problem.transform
    if draws is None:
        natural = _coordinate_covariance(covariance, optimum.theta, tr)
    else:
        natural = np.diag(quality.coordinate_variance(draws.theta, tr))
    own = np.array([isinstance(p.owner, int) for p in table.parameters], bool)
    meant = np.array([fitter.options.narrows(p.name) for p in table.parameters], bool)
    return quality.prior_dominated(natural, tr, len(table.parameters)) & own & ~meant


def _flags(
    fitter, optimum, covariance, areas, mismatch, draws, bound, sampling, found
) -> np.ndarray:
    """Flags of every source of the patch."""
    table, n = fitter.table, len(fitter.table.parameters)
    theta, cov = optimum.theta[:n], covariance[:n, :n]
    n_s = fitter.packed.n_sources
    per_parameter = {
        "at_bound": bound,
        "nonfinite": ~(np.isfinite(theta) & np.isfinite(np.diag(cov))),
        "prior_dominated": found["prior_dominated"],
    }
    whole = [] if optimum.converged else ["no_convergence"]
    if draws is not None:
        missed = verdict.missed(table, areas, draws, sampling)
        per_parameter["low_ess"], per_parameter["high_rhat"] = missed
        per_parameter["piled_up"] = found["piled_up"]
        whole += verdict.flags_of_patch(draws)
    per_source = {
        "poor_fit": areas.chi2 > fitter.options.poor_chi2 * np.maximum(areas.npix, 20),
        "no_data": areas.npix == 0,
        "partial_coverage": (areas.coverage < quality.COVERAGE) & (areas.npix > 0),
        "model_mismatch": mismatch.flagged,
        "blended": quality.flux_blended(table.labels, cov, n_s),
    }
    return quality.source_flags(n_s, table.labels, per_parameter, per_source, whole)
