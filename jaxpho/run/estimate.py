"""A dry run: what would be read and fitted, and about how long it would take."""

from __future__ import annotations

from collections import Counter

import numpy as np

from jaxpho.config import Config
from jaxpho.data.pack import select_pixels
from jaxpho.data.wcs import local_affine
from jaxpho.prepare import check_psfs
from jaxpho.run.field import Field, count_parameters, load_field, n_radii

EVALUATION_SECONDS = 2e-9
"""Time of one pixel x Gaussian evaluation with gradient, one CPU core (METHODS of the kernel)."""
MAP_EVALUATIONS = 60
GRADIENTS_PER_DRAW = 7
COMPILE_SECONDS = 20.0
PSF_SECONDS = 3.0


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
        pixels = sum(int((e.ierr > 0).sum()) for e in members)
        lines.append(f"band {band}: {len(members)} exposures, {pixels} unmasked pixels")
        for e in members:
            ny, nx = e.data.shape
            psf = getattr(getattr(e.psf, "path", None), "name", "mixture")
            masked = 1 - (e.ierr > 0).mean()
            lines.append(
                f"  {e.name}: {nx} x {ny} pixels, {100 * masked:.1f} % masked, unit {e.unit}, "
                f"PSF {psf}"
            )
    lines += [f"left out: {s.name} ({s.reason})" for s in found.images.skipped]
    kinds = Counter(peak.type for peak in found.peaks)
    text = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    lines.append(f"sources: {len(found.peaks)} ({text})")
    lines += [f"  {found.peaks[i].id}: no usable pixel, not fitted" for i in found.lost]
    seconds, total = _patch_lines(config, found, lines)
    fitted = [found.peaks[i] for region in found.regions for i in region.active]
    parameters = sum(count_parameters(peak, config.bands) for peak in fitted)
    lines.append(f"total: {len(found.regions)} patches, {parameters} parameters, {total} pixels")
    lines.append(f"estimated time: {_duration(seconds)} (on one core, within a factor of 3)")
    return "\n".join(lines)


def _patch_lines(config: Config, found: Field, lines: list[str]) -> tuple[float, int]:
    sample, total = config.sample, 0
    jobs = {str(getattr(e.psf, "path", e.name)) for e in found.exposures}
    seconds = COMPILE_SECONDS + PSF_SECONDS * len(jobs)
    for region in found.regions:
        peaks = [found.peaks[i] for i in region.active]
        ra, dec = np.array([p.ra for p in peaks]), np.array([p.dec for p in peaks])
        pixels = 0
        for exposure in found.exposures:
            use = exposure.ierr > 0
            if config.patches.pixels != "all":
                crpix, _, d = local_affine(exposure.wcs, ra, dec)
                use = use & select_pixels(exposure, crpix, d, found.radius[region.active])
            pixels += int(use.sum())
        count = sum(count_parameters(peak, config.bands) for peak in peaks)
        lines.append(
            f"  patch {region.patch_id}: {len(region.active)} sources"
            + (f" + {len(region.fixed)} neighbours" if region.fixed else "")
            + f", {count} parameters, {pixels} pixels"
        )
        calls = MAP_EVALUATIONS
        if sample.method == "nuts":
            calls += GRADIENTS_PER_DRAW * sample.num_chains * (
                sample.num_warmup + sample.num_samples
            )  # fmt: skip
        gaussians = 4 * n_radii(found.mixture) * (len(region.active) + len(region.fixed))
        seconds += calls * pixels * gaussians * EVALUATION_SECONDS
        total += pixels
    return seconds, total


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
