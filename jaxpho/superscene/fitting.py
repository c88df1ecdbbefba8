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
from jaxpho.fit.options import FitOptions, NoiseOptions, SampleOptions
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import sky_position
from jaxpho.output.samples import write_samples
from jaxpho.superscene.layout import from_plain, parameter_names, peak_of

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
    mixture : Sersic mixture, and `n_radii` its number of Gaussians.
    folder : where the files of samples go, or None.
    precision : "float32" or "float64".
    warmup : write the draws of the warm-up, too.
    products : called with (message, result), to write more.
    noise : how the noise of the pixels is treated.
    """

    exposures: Sequence[Exposure]
    bands: list[str]
    fit: FitOptions
    sample: SampleOptions
    mixture: str = "k12"
    n_radii: int = 12
    folder: Path | None = None
    precision: str = "float32"
    warmup: bool = True
    products: Callable[[dict, PatchResult], None] | None = field(default=None)
    noise: NoiseOptions = field(default_factory=NoiseOptions)


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
        offsets in arcsec; parameters that are held have zeros) and `flags`; `summary` with chi2,
        npix, gradients, `left_out` (exposures that could not be read) and message.

    Raises
    ------
    InputError
        When no exposure can be read.
    """
    active = [from_plain(source["start"]) for source in message["active"]]
    held = [_held(source, task.bands) for source in message["fixed"]]
    peaks = active + [peak for peak in held if _shines(peak)]
    radii = [source["radius"] for source in message["active"]]
    packed, lost = pack(task, peaks, radii)
    result = fit_patch(
        packed, peaks, task.fit, _sampling(task.sample, message), mixture=task.mixture,
        key=jax.random.PRNGKey(message["seed"]), patch_id=_number(message["patch"]),
        noise=task.noise,
    )  # fmt: skip
    masks = _masks(task, result, active, radii, lost)
    if task.folder is not None:
        write_samples(task.folder / f"patch{message['patch']}_samples.h5", result, task.warmup)
    if task.products is not None:
        task.products(message, result)
    found = [latest(result, s, peak, task.bands) for s, peak in enumerate(active)]
    gradients = result.diagnostics.get("gradients", 0)
    gradients += result.diagnostics.get("warmup_gradients", 0)
    return {
        "latest": [row for row, _ in found],
        "covariance": [block for _, block in found],
        "flags": masks,
        "summary": {
            "chi2": float(np.sum(result.chi2)),
            "npix": int(np.sum(result.npix)),
            "gradients": int(gradients),
            "left_out": lost,
            "message": f"left out: {', '.join(lost)}" if lost else "",
        },
    }


def _sampling(options: SampleOptions, message: dict) -> SampleOptions:
    """One round of as many draws per chain as the patch is to have.

    Whether there are enough, and whether chains agree, is seen in all patches of a source
    together.
    """
    return replace(
        options, num_samples=message["iterations"], max_rounds=1, min_ess=0.0, max_rhat=math.inf
    )


def _number(name: str) -> int:
    """The number of a patch, or of the one that it is a part of."""
    return int(re.match(r"\d+", name)[0])


def _held(source: dict, bands) -> Peak:
    peak = peak_of(from_plain(source["start"]), bands, source["parameters"])
    return replace(peak, fixed=frozenset({"all"}))


def _shines(peak: Peak) -> bool:
    return any(np.isfinite(value) and value != 0 for value in peak.flux.values())


def pack(task: Task, peaks: Sequence[Peak], radii: Sequence[float]) -> tuple[PackedPatch, list]:
    """The patch of the exposures near its active sources; and those that could not be read.

    Parameters
    ----------
    task : Task
    peaks : active sources, then fixed ones.
    radii : of the active sources, arcsec.
    """
    n = len(radii)
    ra, dec = (np.array([getattr(peak, k) for peak in peaks[:n]]) for k in ("ra", "dec"))
    near = [e for e in task.exposures if e.near(ra, dec, np.asarray(radii)).any()]
    reach = [*radii, *[0.0] * (len(peaks) - n)]

    def packed(exposures):
        return pack_patch(exposures, peaks, bands=task.bands, radii=reach, n_radii=task.n_radii,
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


def latest(result: PatchResult, s: int, peak: Peak, bands) -> tuple[np.ndarray, np.ndarray]:
    """The last draw of a source and the covariance of its parameters; see `work`."""
    names = parameter_names(peak.type, bands)
    draws = result.samples
    last = result.theta if draws is None else np.asarray(draws[0, -1], float)
    columns = [result.index(s, name, band) for name, band in names]
    row = np.array(
        [
            result.fixed.get((s, name, band), np.nan) if column is None else last[column]
            for (name, band), column in zip(names, columns, strict=True)
        ],
        float,
    )
    free = [k for k, column in enumerate(columns) if column is not None]
    index = [columns[k] for k in free]
    if draws is None:
        inner = np.asarray(result.covariance, float)[np.ix_(index, index)]
    else:
        inner = np.cov(np.asarray(draws, float).reshape(-1, draws.shape[-1])[:, index].T)
    block = np.zeros((len(names), len(names)))
    block[np.ix_(free, free)] = inner
    at = [names.index((name, "")) for name in ("ra", "dec")]
    row[at] = sky_position(result.reference, *row[at])
    return row, block
