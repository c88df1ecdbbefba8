"""One run: read, prepare PSFs, fit patch after patch, write everything as it comes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from jaxpho.compat.archive import Archive
from jaxpho.config import Config, dump_config
from jaxpho.data.catalog import Peak
from jaxpho.data.pack import pack_patch
from jaxpho.data.regions import Region
from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit import flags
from jaxpho.fit.draws import method_text
from jaxpho.fit.driver import fit_patch
from jaxpho.fit.links import is_difference
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.result import PatchResult
from jaxpho.inference_data import check_arviz
from jaxpho.output.catalog import make_table, row_of_peak, rows_of_patch, write_catalog
from jaxpho.output.checkpoint import FolderCheckpoint
from jaxpho.output.derived import SourceView, sky_position
from jaxpho.output.images import ImageAssembler
from jaxpho.output.noise import noise_summary, write_noise
from jaxpho.prepare import PSFQuality, prepare_psfs
from jaxpho.run import stop
from jaxpho.run.field import Field, load_field, n_radii
from jaxpho.run.folder import CATALOG, CHECKPOINTS, NOISE, clear, forget, protect
from jaxpho.run.products import held_sources, make_archive, write_products
from jaxpho.run.progress import Progress, told_by
from jaxpho.run.version import version
from jaxpho.superscene.lock import RunLock

log = logging.getLogger("jaxpho.run")

DONE, SOME_FAILED = 0, 1
FAILURES = flags.encode(["failed", "no_data"])
NONFINITE, UNFINISHED = flags.bit("nonfinite"), flags.bit("unfinished")
SAVE_EVERY = 60.0
"""Seconds between catalogues written during a run."""


@dataclass
class RunState:
    """What grows during a run: rows by source, the latest values of each source, pictures."""

    config: Config
    field: Field
    rows: dict[int, dict] = field(default_factory=dict)
    latest: dict[int, Peak] = field(default_factory=dict)
    images: ImageAssembler | None = None
    archive: Archive | None = None
    unwritten: int = 0
    unsaved: bool = False
    saved: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The run directory."""
        return Path(self.config.output)

    def save_catalog(self) -> None:
        """Write the catalogue: fitted sources, and the others with their input values."""
        bands, lost = self.config.bands, set(self.field.lost)
        rows = []
        for i, peak in enumerate(self.field.peaks):
            if i not in self.rows and i not in lost:
                peak = replace(peak, flags=peak.flags | UNFINISHED)
            rows.append(self.rows.get(i) or row_of_peak(peak, bands))
        meta = {"CREATOR": f"jaxpho {version()}", "SERSIC": self.field.mixture}
        meta |= {"SEED": self.config.seed, "SAMPLER": method_text(self.config.sample.method)}
        table = make_table(rows, bands, self.field.images.unit, meta)
        self.saved, self.unsaved = time.monotonic(), False
        try:
            write_catalog(self.folder / CATALOG, table)
            if self.archive is not None:
                self.archive.write_scene()
        except (OSError, InputError) as error:
            # a full disk may have room again at the next attempt
            self.unsaved = True
            log.error("%s not written (%s)", self.folder / CATALOG, _first_line(error))


def run(config: Config, quiet: bool = False, fresh: bool = False) -> int:
    """Carry out a run.

    Parameters
    ----------
    config : the configuration; `output` is created.
    quiet : no progress bar.
    fresh : chains that a killed run has saved are deleted, not gone on with.

    Returns
    -------
    0 when every source was fitted, 1 when some were not, exposures were left out, or files could
    not be written.

    Raises
    ------
    InputError
        When the input makes the run impossible; nothing has been fitted then.
    """
    clock = time.monotonic()
    folder = Path(config.output)
    if config.products.arviz:
        check_arviz("products.arviz")
    quality: dict[str, PSFQuality] = {}

    def prepare(exposures, peaks):
        files = [exposure.notes["path"] for exposure in exposures]
        protect(folder, files + [path for path in [config.peaks.file] if path])
        cache = config.psf_cache or folder / "psf_mixtures.h5"
        with tqdm(desc="PSF mixtures", unit="psf", disable=quiet, leave=False) as bar:
            quality.update(prepare_psfs(exposures, peaks, cache, told_by(bar)))

    found = load_field(config, prepare)
    flag_poor_psfs(found, quality)
    state = RunState(config, found)
    # another process that writes the same files would ruin both runs
    with RunLock(folder):
        clear(folder)
        if fresh:
            forget(folder)
        with replacing(folder / "config.yml") as temporary:
            temporary.write_text(dump_config(config), encoding="utf-8")
        write_noise(folder / NOISE, found.exposures)
        return _fit_all(state, quiet, clock)


def _fit_all(state: RunState, quiet: bool, clock: float) -> int:
    """Patch after patch; the exit code of the run."""
    config, found = state.config, state.field
    state.archive = make_archive(config, found)
    if config.products.images:
        state.images = ImageAssembler(found.exposures)
    schedule = make_schedule(found.regions, config.patches.sweeps)
    progress = Progress(state, len(schedule))
    try:
        with (
            tqdm(schedule, desc="patches", unit="patch", disable=quiet) as bar,
            stop.insisting(),
        ):
            for region, last in bar:
                stop.check()
                bar.set_postfix_str(f"patch {region.patch_id}, {_count(region)}")
                run_patch(state, region, last)
                progress.update()
                if time.monotonic() - state.saved > SAVE_EVERY:
                    state.save_catalog()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_stopped(state)) from None
    finally:
        # also after Ctrl-C: what is done stays
        if state.rows:
            state.save_catalog()
        write_images(state)
        progress.end()
    forget(state.folder)
    return _summary(state, time.monotonic() - clock)


def _stopped(state: RunState) -> str:
    """What an interrupted run leaves behind, and how to go on."""
    done = len(state.rows)
    if not done:
        return "no source was finished, the same command starts again (PSFs and chains are kept)"
    return (
        f"{done} of {len(state.field.peaks)} sources are in {state.folder / CATALOG}, the others "
        "are flagged unfinished; to go on, give --resume; to start again, --overwrite (fitted "
        "PSFs are used again) or another --output"
    )


def make_schedule(regions: list[Region], sweeps: int) -> list[tuple[Region, bool]]:
    """(region, whether this is its last fit): patches with neighbours come `sweeps` times."""
    out = [(region, sweeps == 1 or not region.fixed) for region in regions]
    for sweep in range(1, sweeps):
        out += [(region, sweep == sweeps - 1) for region in regions if region.fixed]
    return out


def flag_poor_psfs(found: Field, quality: dict[str, PSFQuality]) -> None:
    """Flag the sources that a poorly described PSF touches."""
    for e, exposure in enumerate(found.exposures):
        if quality[exposure.name].poor:
            for i in np.flatnonzero(found.fraction[:, e] > 0):
                found.peaks[i].flags |= flags.bit("bad_psf")


def run_patch(state: RunState, region: Region, last: bool) -> None:
    """Fit one patch and write its products; an error is logged and flagged, never raised."""
    started = time.monotonic()
    try:
        result = fit_region(state, region, sampled=last)
    except Exception as error:
        stop.check()  # where JAX made another error of it
        # one bad patch must not end a run of thousands; the traceback goes to the log file
        if len(region.active) == 1 or all(i in state.latest for i in region.active):
            give_up(state, region, error)
            return
        region, result = rescue(state, region, error, sampled=last)
        if result is None:
            return
    keep_values(state, region, result)
    seconds = time.monotonic() - started
    log.info(
        "patch %d: %s, %d pixels, chi2 = %.1f, %.1f s",
        region.patch_id,
        _count(region),
        int(np.sum(result.npix)),
        float(np.sum(result.chi2)),
        seconds,
    )
    if last:
        try:
            write_products(state, region, result)
        except Exception as error:
            # a full disk or a broken picture costs files, not the photometry of the others
            state.unwritten += 1
            log.error("patch %d: files not written (%s)", region.patch_id, _first_line(error))
            log.debug("traceback of patch %d", region.patch_id, exc_info=True)


def give_up(state: RunState, region: Region, error: BaseException) -> None:
    """Log and flag the active sources of a region as failed.

    One that an earlier sweep has fitted keeps that fit, flagged as not converged.
    """
    names = ", ".join(str(state.field.peaks[i].id) for i in region.active)
    log.error("patch %d failed (%s): sources %s", region.patch_id, _first_line(error), names)
    log.debug("traceback of patch %d", region.patch_id, exc_info=error)
    for i in region.active:
        if i in state.latest:
            row = state.rows[i]
            row["flags"] |= flags.bit("no_convergence")
            row["flag_names"] = ",".join(flags.decode(row["flags"]))
            continue
        peak = state.field.peaks[i]
        peak.flags |= flags.bit("failed")
        state.rows[i] = row_of_peak(peak, state.config.bands, region.patch_id)


def rescue(state: RunState, region: Region, error: BaseException, sampled: bool):
    """Find the sources of a failed patch that cannot be fitted even alone, and fit the others.

    Returns
    -------
    region, result : of the joint fit of those that are left; None where there is none. When only
        the joint fit fails, every source keeps its own fit, flagged as not converged.
    """
    log.warning("patch %d failed (%s): its sources are fitted one by one to find out which is to "
                "blame", region.patch_id, _first_line(error))  # fmt: skip
    alone = {}
    for i in region.active:
        single = replace(region, active=[i])
        try:
            alone[i] = single, fit_region(state, single, sampled=False)
        except Exception as own:
            give_up(state, single, own)
    if 0 < len(alone) < len(region.active):
        rest = replace(region, active=list(alone))
        try:
            return rest, fit_region(state, rest, sampled=sampled)
        except Exception as again:
            error = again
    for single, result in alone.values():
        result.flags = np.asarray(result.flags) | flags.encode(["no_convergence", "blended"])
        keep_values(state, single, result)
    if alone:
        log.error("patch %d: no joint fit (%s): %d sources keep fits that ignore each other",
                  region.patch_id, _first_line(error), len(alone))  # fmt: skip
    return region, None


def _count(region: Region) -> str:
    n = len(region.active)
    return f"{n} source{'s' * (n != 1)}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def fit_region(state: RunState, region: Region, sampled: bool = True) -> PatchResult:
    """Pack and fit one patch: its active sources, and its neighbours held at their values."""
    config, found = state.config, state.field
    active = [found.peaks[i] for i in region.active]
    held = [peak for _, peak in held_sources(found, state.latest, region)]
    peaks = active + held
    exposures, radii = found.exposures, None
    if config.patches.pixels != "all":
        exposures = found.near(region)
        radii = [float(found.radius[i]) for i in region.active] + [0.0] * len(held)
    key = jax.random.fold_in(jax.random.PRNGKey(config.seed), region.patch_id)

    def pack(mixture: str):
        return pack_patch(
            exposures, peaks, bands=config.bands, radii=radii, n_radii=n_radii(mixture),
            dtype=np.dtype(config.precision),
        )  # fmt: skip

    auto = config.sources.sersic_mixture == "auto"
    fit = {"sample": config.sample, "key": key, "region": region}
    if sampled and config.sample.method != "none":
        path = state.folder / CHECKPOINTS / f"patch{region.patch_id}"
        fit["checkpoint"] = FolderCheckpoint(path, config.sample.save_every)
    else:
        fit["sample"] = replace(config.sample, method="none")
    result = _fit(
        pack(found.mixture), peaks, config, mixture=found.mixture, stop_if_coarse=auto, **fit
    )
    needed = result.diagnostics.get("needed", found.mixture)
    if auto and needed != found.mixture:
        # a galaxy turned out so large and cuspy that it needs a finer mixture
        log.info("patch %d: fitted again with Sersic mixture %s", region.patch_id, needed)
        result = _fit(pack(needed), peaks, config, mixture=needed, **fit)
    return result


def _fit(packed, peaks, config, *, sample: SampleOptions, region, **common) -> PatchResult:
    common["patch_id"] = region.patch_id
    try:
        return fit_patch(packed, peaks, config.fit, sample, noise=config.noise, **common)
    except (ArithmeticError, ValueError, RuntimeError) as error:
        if sample.method == "none" or isinstance(error, InputError):
            raise
        log.warning(
            "patch %d: sampling failed (%s), Laplace errors instead",
            region.patch_id,
            _first_line(error),
        )
        log.debug("traceback of patch %d", region.patch_id, exc_info=True)
        common.pop("checkpoint", None)
        plain = replace(sample, method="none")
        result = fit_patch(packed, peaks, config.fit, plain, noise=config.noise, **common)
        result.flags = np.asarray(result.flags) | flags.bit("low_ess")
        return result


def keep_values(state: RunState, region: Region, result: PatchResult) -> None:
    """Rows of the active sources, and their values for the patches next door."""
    for s, i in enumerate(region.active):
        peak = state.field.peaks[i]
        result.flags[s] |= peak.flags
        state.latest[i] = fitted_peak(peak, result, s)
    rows = rows_of_patch(result)
    for s, i in enumerate(region.active):
        state.rows[i] = rows[s]


def fitted_peak(peak: Peak, result: PatchResult, s: int) -> Peak:
    """The peak with the values of a fit."""
    view = SourceView(result, s)
    ra, dec = sky_position(result.reference, view.value("ra"), view.value("dec"))
    values, flux = dict(peak.values), dict(peak.flux)
    for name in view.names:
        if name in view.flux_names():
            flux.update({(name, band): view.value(name, band) for band in result.bands})
        elif is_difference(name):
            for _, band in view.labels(name):
                values[f"{name}:{band}" if band else name] = view.value(name, band)
        elif name not in ("ra", "dec"):
            values[name] = view.value(name)
    return replace(peak, type=view.type, ra=float(ra), dec=float(dec), values=values, flux=flux)


def write_images(state: RunState) -> None:
    """Model and residual images of what has been fitted; an error is logged, never raised."""
    if state.images is None:
        return
    try:
        paths = state.images.write(state.folder / "images")
        log.info("wrote %d model and residual images", len(paths))
    except Exception as error:
        state.unwritten += 1
        log.error("model and residual images not written (%s)", _first_line(error))
        log.debug("traceback of images", exc_info=True)


def _summary(state: RunState, seconds: float) -> int:
    rows = [state.rows.get(i) for i in range(len(state.field.peaks))]
    masks = [
        row["flags"] if row else peak.flags
        for row, peak in zip(rows, state.field.peaks, strict=True)
    ]
    bad = sum(
        # a value of the catalogue that could not be used does not make a good fit a failure
        bool(mask & FAILURES) or bool(mask & ~peak.flags & NONFINITE)
        for mask, peak in zip(masks, state.field.peaks, strict=True)
    )
    counts = Counter(name for mask in masks for name in flags.decode(mask))
    text = ", ".join(f"{name} {n}" for name, n in counts.most_common()) or "none"
    log.info("%d of %d sources measured in %.0f s", len(masks) - bad, len(masks), seconds)
    log.info("flags: %s", text)
    for line in noise_summary(state.field.exposures):
        log.info("%s: %s", line, state.folder / NOISE)
    for skipped in state.field.images.skipped:
        log.warning("exposure %s was left out: %s", skipped.name, skipped.reason)
    if not state.unsaved:
        log.info("catalogue: %s", state.folder / CATALOG)
    lost = bad or state.field.images.skipped or state.unwritten or state.unsaved
    return SOME_FAILED if lost else DONE
