"""A dry run: what would be read and fitted, and about how long it would take."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from jaxpho.config import Config
from jaxpho.core.patch import bucket
from jaxpho.core.pixel import TILE_PIXELS
from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.data.exposure import PSFInput
from jaxpho.data.pack import affine_maps, select_pixels
from jaxpho.fit.options import SVI_PARTICLES
from jaxpho.prepare import MAX_POSITIONS, NGAUSS, check_psfs
from jaxpho.run.field import Field, count_parameters, load_field, n_radii
from jaxpho.run.scenestate import rehearse, scene_of
from jaxpho.superscene.policy import OPTIMUM, Patch

# Measured on the demo and the survey images of docs/real_data.md, one CPU core.
EVALUATION_SECONDS = 5e-9
"""Time of one pixel x Gaussian evaluation with its gradient."""
MAP_EVALUATIONS = 30
GRADIENTS_PER_DRAW = 3.5
ROUNDS = 2.0
"""Rounds of draws that a typical patch takes to reach its targets."""
MAP_COMPILE_SECONDS, SAMPLE_COMPILE_SECONDS = 8.0, 10.0
"""For every new shape of patch."""
PATCH_SECONDS = 0.5
"""Packing, bookkeeping and files of a patch."""
PSF_SECONDS_PER_GAUSSIAN = 1.0


class PatchCost(NamedTuple):
    """What a patch takes: padded shape (patches of one shape share programs), sizes, seconds of a
    gradient."""

    shape: tuple
    pixels: int
    parameters: int
    call: float


def dry_run(config: Config) -> str:
    """What a run would do, in words: reads the input, writes nothing.

    Raises
    ------
    InputError
        As `run`.
    """
    found = load_field(config)
    check_psfs(found.exposures, found.peaks)
    lines = [f"run directory: {config.output}", f"flux unit: {found.images.unit}"]
    for band in config.bands:
        members = [e for e in found.exposures if e.band == band]
        known = [(e.shape[0] * e.shape[1], e.masked) for e in members]
        text = f"band {band}: {len(members)} exposures"
        if all(masked is not None for _, masked in known):
            pixels = sum(round(n * (1 - masked)) for n, masked in known)
            text += f", {pixels} unmasked pixels"
        lines.append(text)
        for e, (_, masked) in zip(members, known, strict=True):
            ny, nx = e.shape
            psf = getattr(getattr(e.psf, "path", None), "name", "mixture")
            share = "" if masked is None else f"{100 * masked:.1f} % masked, "
            lines.append(f"  {e.name}: {nx} x {ny} pixels, {share}unit {e.unit}, PSF {psf}")
    lines += [f"left out: {s.name} ({s.reason})" for s in found.images.skipped]
    kinds = Counter(peak.type for peak in found.peaks)
    text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    lines.append(f"sources: {len(found.peaks)} ({text})")
    lines += [f"  {found.peaks[i].id}: no usable pixel, not fitted" for i in found.lost]
    # the fits of all rounds; the same sources come again
    patches = rehearse(scene_of(config, found))
    known = {(tuple(p.active), tuple(p.fixed)): p for p in reversed(patches)}
    costs = {key: patch_cost(config, found, patch) for key, patch in known.items()}
    fits = Counter((tuple(p.active), tuple(p.fixed)) for p in patches)
    for key, patch in sorted(known.items(), key=lambda item: int(item[1].name)):
        lines.append(
            f"  patch {patch.name}: {len(patch.active)} sources"
            + (f" + {len(patch.fixed)} neighbours" if patch.fixed else "")
            + f", {costs[key].parameters} parameters, {costs[key].pixels} pixels"
            + (f", {fits[key]} fits" if fits[key] > 1 else "")
        )
    shapes = len({cost.shape for cost in costs.values()})
    lines.append(
        f"total: {len(patches)} patches of {shapes} shapes, "
        f"{sum(count_parameters(peak, config.bands) for peak in found.fitted)} parameters, "
        f"{sum(cost.pixels for cost in costs.values())} pixels"
    )
    nuts = config.sample.method != "none"
    compiling = shapes * (MAP_COMPILE_SECONDS + nuts * SAMPLE_COMPILE_SECONDS)
    fitting = sum(
        PATCH_SECONDS + calls_of(config, p) * costs[tuple(p.active), tuple(p.fixed)].call
        for p in patches
    )
    mixtures = psf_seconds(found)
    lines.append(
        f"estimated time: {_duration(mixtures + compiling + fitting)} on one worker, within a "
        f"factor of 2 or 3 (PSF mixtures {_duration(mixtures)}, compiling {_duration(compiling)}, "
        f"fitting {_duration(fitting)})"
    )
    return "\n".join(lines)


def psf_seconds(found: Field) -> float:
    """Time to fit the PSF mixtures that are not in a store; images used twice are fitted once."""
    jobs = {}
    for exposure in found.exposures:
        psf = exposure.psf
        if isinstance(psf, PSFInput) and psf.kind != "store":
            count = 1
            if psf.kind == "psfex":
                count = min(len(found.peaks), MAX_POSITIONS)
            jobs[psf.path, str(psf.rows)] = count * (psf.options.ngauss or NGAUSS)
    return PSF_SECONDS_PER_GAUSSIAN * sum(jobs.values())


def calls_of(config: Config, patch: Patch) -> float:
    """Gradients of the fit of a patch."""
    sample, calls = config.sample, MAP_EVALUATIONS
    if patch.iterations == OPTIMUM:
        return calls
    if sample.method == "svi":
        return calls + SVI_PARTICLES * sample.svi_steps
    if sample.method in ("none", "laplace"):
        return calls
    rounds = 1 if patch.fixed else min(ROUNDS, sample.max_rounds)
    draws = sample.warmup() + rounds * sample.num_samples
    return calls + GRADIENTS_PER_DRAW * sample.num_chains * draws


def patch_cost(config: Config, found: Field, region: Patch) -> PatchCost:
    """What fitting one patch takes, compilation apart."""
    members = [*region.active, *region.fixed]
    peaks = [found.peaks[i] for i in members]
    ra, dec = np.array([p.ra for p in peaks]), np.array([p.dec for p in peaks])
    reach = np.array([found.radius[i] for i in region.active] + [0.0] * len(region.fixed))
    tiles = pixels = used = 0
    whole = config.patches.pixels == "all"
    for exposure in found.exposures if whole else found.near(region.active):
        select = None
        if not whole:
            crpix, _, d, visible = affine_maps(exposure, ra, dec)
            select = select_pixels(exposure, crpix, d, np.where(visible, reach, 0.0))
        n_tiles, n_pixels = exposure.count_tiles(select)
        tiles += n_tiles
        used += n_tiles > 0
        pixels += n_pixels
    active = [found.peaks[i] for i in region.active]
    parameters = sum(count_parameters(peak, config.bands) for peak in active)
    radii, psf = n_radii(found.mixture), _psf_gaussians(found)
    gaussians = psf * sum(
        radii if component.profile == "sersic" else 1
        for peak in peaks
        for component in SOURCE_TYPES[peak.type].components
    )
    seconds = tiles * TILE_PIXELS * gaussians * EVALUATION_SECONDS
    kinds = tuple(sorted(Counter(peak.type for peak in peaks).items()))
    blocks = max(256, 1 << (tiles // 4).bit_length())
    shape = (bucket(used), bucket(len(peaks)), blocks, -(-parameters // 8), kinds)
    return PatchCost(shape, pixels, parameters, seconds)


def _psf_gaussians(found: Field) -> int:
    """Gaussians of the largest PSF mixture of the exposures."""
    counts = []
    for exposure in found.exposures:
        options = getattr(exposure.psf, "options", None)
        own = getattr(exposure.psf, "ngauss", None)
        counts.append(own or getattr(options, "ngauss", None) or NGAUSS)
    return max(counts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
