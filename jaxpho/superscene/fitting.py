"""The work on one patch: read its pixels, fit, write the samples, answer with the latest draw."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np

from jaxpho.data.catalog import Peak
from jaxpho.data.exposure import Exposure
from jaxpho.data.pack import affine_maps, pack_patch, select_pixels
from jaxpho.data.packing import PackedPatch
from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.links import is_difference
from jaxpho.fit.options import FitOptions, NoiseOptions, SampleOptions
from jaxpho.fit.result import PatchResult
from jaxpho.output.checkpoint import FolderCheckpoint
from jaxpho.output.derived import sky_position
from jaxpho.output.samples import write_samples
from jaxpho.superscene.layout import from_plain, parameter_names, peak_of
from jaxpho.superscene.policy import OPTIMUM
from jaxpho.superscene.worker import first_line, kind_of

log = logging.getLogger("jaxpho.fitting")

UNREADABLE = (OSError, ValueError, KeyError, InputError)
"""What reading a damaged file may raise."""


@dataclass
class Task:
    """What is the same for all patches of a run.

    Attributes
    ----------
    exposures : with PSF mixtures; pixels are read where a patch needs them.
    bands : of the run.
    fit, sample : options.
    mixture : Sersic mixture, as "k12".
    finer : fit again with a finer mixture where a galaxy needs it.
    whole : a patch has all pixels of all exposures.
    folder : where the files of samples go, or None.
    checkpoints : where chains keep their state, one folder for each patch, or None.
    precision : "float32" or "float64".
    warmup : write the draws of the warm-up, too.
    products : called with (message, result), to write more; returns what could not be written.
    noise : how the noise of the pixels is treated.
    machine : what this process computes with, by name and version.
    """

    exposures: Sequence[Exposure]
    bands: list[str]
    fit: FitOptions
    sample: SampleOptions
    mixture: str = "k12"
    finer: bool = False
    whole: bool = False
    folder: Path | None = None
    checkpoints: Path | None = None
    precision: str = "float32"
    warmup: bool = True
    products: Callable[[dict, PatchResult], list[str]] | None = field(default=None)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    machine: str = ""


def work(task: Task, message: dict) -> dict:
    """Fit one patch.

    Parameters
    ----------
    task : Task
    message : see `jaxpho.superscene.message.message_of`.

    Returns
    -------
    dict
        Per active source `latest` [npar] (the last draw of the first chain, or the optimum
        without draws; positions in degrees), `covariance` [npar, npar] (of the draws, or Laplace;
        offsets in arcsec; parameters that are held have zeros), `flags` and `types`; `summary` with
        chi2, npix, gradients, `left_out` (exposures that could not be read), `unwritten` (products
        that could not be written), machine and message.

    Raises
    ------
    InputError
        When no exposure can be read.
    """
    active = [from_plain(source["start"]) for source in message["active"]]
    held = [_held(source, task) for source in message["fixed"]]
    peaks = active + [peak for peak in held if _shines(peak)]
    radii = [source["radius"] for source in message["active"]]
    result, lost = fit(task, message, peaks, radii)
    result.n_active = len(active)
    masks = _masks(task, result, active, radii, lost)
    result.flags = np.asarray(result.flags)
    result.flags[: len(active)] = [m | p.flags for m, p in zip(masks, active, strict=True)]
    if task.folder is not None:
        write_samples(task.folder / f"patch{message['patch']}_samples.h5", result, task.warmup)
    unwritten = [] if task.products is None else task.products(message, result)
    found = [latest(result, s, task) for s in range(len(active))]
    gradients = result.diagnostics.get("gradients", 0)
    gradients += result.diagnostics.get("warmup_gradients", 0)
    return {
        "latest": [row for row, _ in found],
        "covariance": [block for _, block in found],
        "flags": masks,
        "types": list(result.types[: len(active)]),
        "summary": {
            "chi2": float(np.sum(result.chi2)),
            "npix": int(np.sum(result.npix)),
            "gradients": int(gradients),
            "left_out": lost,
            "unwritten": unwritten,
            "machine": task.machine,
            "message": f"left out: {', '.join(lost)}" if lost else "",
        },
    }


def fit(task: Task, message: dict, peaks, radii) -> tuple[PatchResult, list[str]]:
    """The fit of a patch, with a finer Sersic mixture where it needs one.

    Returns
    -------
    result
    lost : names of exposures that could not be read.
    """
    packed, lost = pack(task, peaks, radii, task.mixture)
    result = _fit(task, message, peaks, packed, task.mixture, stop_if_coarse=task.finer)
    needed = result.diagnostics.get("needed", task.mixture)
    if task.finer and needed != task.mixture:
        # a galaxy turned out so large and cuspy that it needs a finer mixture
        log.info("patch %s: fitted again with Sersic mixture %s", message["patch"], needed)
        packed, lost = pack(task, peaks, radii, needed)
        result = _fit(task, message, peaks, packed, needed)
    return result, lost


def _fit(task: Task, message: dict, peaks, packed, mixture: str, **more) -> PatchResult:
    sampling = _sampling(task.sample, message)
    common = {"noise": task.noise, "mixture": mixture, "patch_id": _number(message["patch"]),
              "key": jax.random.PRNGKey(message["seed"])} | more  # fmt: skip
    if sampling.method == "none":
        return fit_patch(packed, peaks, task.fit, sampling, **common)
    kept = {}
    if task.checkpoints is not None:
        folder = task.checkpoints / f"patch{message['patch']}"
        kept = {"checkpoint": FolderCheckpoint(folder, sampling.save_every)}
    try:
        return fit_patch(packed, peaks, task.fit, sampling, **common, **kept)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError) or kind_of(error) != "raised":
            raise
        log.warning("patch %s: sampling failed (%s), Laplace errors instead", message["patch"],
                    first_line(error))  # fmt: skip
        log.debug("traceback of patch %s", message["patch"], exc_info=True)
        plain = replace(sampling, method="none")
        result = fit_patch(packed, peaks, task.fit, plain, **common)
        result.flags = np.asarray(result.flags) | flags.bit("low_ess")
        return result


def _sampling(options: SampleOptions, message: dict) -> SampleOptions:
    """How a patch is sampled.

    One that stands alone is sampled until its draws suffice. Of one with neighbours, one round of
    as many draws per chain as it is to have: whether there are enough, and whether chains agree,
    is seen in all patches of a source together.
    """
    if message["iterations"] == OPTIMUM:
        return replace(options, method="none")
    if not message["fixed"]:
        return options
    return replace(
        options, num_samples=message["iterations"], max_rounds=1, min_ess=0.0, max_rhat=math.inf
    )


def _number(name: str) -> int:
    """The number of a patch, or of the one that it is a part of."""
    return int(re.match(r"\d+", name)[0])


def _held(source: dict, task: Task) -> Peak:
    peak = peak_of(from_plain(source["start"]), task.bands, source["parameters"], task.fit)
    return replace(peak, fixed=frozenset({"all"}))


def _shines(peak: Peak) -> bool:
    return any(np.isfinite(value) and value != 0 for value in peak.flux.values())


def pack(
    task: Task, peaks: Sequence[Peak], radii: Sequence[float], mixture: str
) -> tuple[PackedPatch, list[str]]:
    """The patch of the exposures near its active sources; and those that could not be read.

    Parameters
    ----------
    task : Task
    peaks : active sources, then fixed ones.
    radii : of the active sources, arcsec.
    mixture : Sersic mixture.
    """
    n = len(radii)
    ra, dec = (np.array([getattr(peak, k) for peak in peaks[:n]]) for k in ("ra", "dec"))
    near = [e for e in task.exposures if task.whole or e.near(ra, dec, np.asarray(radii)).any()]
    reach = None if task.whole else [*radii, *[0.0] * (len(peaks) - n)]
    n_radii = int(mixture.removeprefix("k"))

    def packed(exposures):
        return pack_patch(exposures, peaks, bands=task.bands, radii=reach, n_radii=n_radii,
                          dtype=np.dtype(task.precision))  # fmt: skip

    try:
        return packed(near), []
    except UNREADABLE as error:
        failure = error
    lost = [e.name for e in near if not _readable(e, ra, dec, radii)]
    if not lost or len(lost) == len(near):
        raise failure
    return packed([e for e in near if e.name not in lost]), lost


def _readable(exposure: Exposure, ra, dec, radii) -> bool:
    """Whether the pixels of an exposure around sources can be read."""
    crpix, _, d, visible = affine_maps(exposure, ra, dec)
    try:
        exposure.tiles(select_pixels(exposure, crpix, d, np.where(visible, radii, 0.0)))
    except UNREADABLE as error:
        log.error("exposure %s is left out: %s", exposure.name, error)
        return False
    return True


def _masks(task: Task, result: PatchResult, active, radii, lost) -> list[int]:
    """Flags of the active sources, which exposures that are left out add to."""
    masks = [int(mask) for mask in np.asarray(result.flags)[: len(active)]]
    for exposure in task.exposures:
        if exposure.name in lost:
            ra, dec = (np.array([getattr(p, k) for p in active]) for k in ("ra", "dec"))
            for s in np.flatnonzero(exposure.near(ra, dec, np.asarray(radii))):
                masks[s] |= flags.bit("bad_exposure")
    return masks


def latest(result: PatchResult, s: int, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The last draw of a source and the covariance of its parameters; see `work`."""
    names = parameter_names(result.types[s], task.bands, task.fit)
    draws = result.samples
    last = result.theta if draws is None else np.asarray(draws[0, -1], float)
    columns = [result.index(s, name, band) for name, band in names]
    row = np.array(
        [
            result.fixed.get((s, name, band), 0.0 if is_difference(name) else np.nan)
            if column is None
            else last[column]
            for (name, band), column in zip(names, columns, strict=True)
        ],
        float,
    )
    free = [k for k, column in enumerate(columns) if column is not None]
    index = [columns[k] for k in free]
    if draws is None or not free:
        inner = np.asarray(result.covariance, float)[np.ix_(index, index)]
    else:
        inner = np.cov(np.asarray(draws, float).reshape(-1, draws.shape[-1])[:, index].T)
    block = np.zeros((len(names), len(names)))
    if free:
        block[np.ix_(free, free)] = inner
    at = [names.index((name, "")) for name in ("ra", "dec")]
    row[at] = sky_position(result.reference, *row[at])
    return row, block
