"""Entries of `images` that are a meta store and a pixel store, as exposures."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxpho.data.metastore import open_meta_store
from jaxpho.data.options import ImageOptions
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.plan import ImagePlan, plan_psf, template_fields
from jaxpho.data.presets import resolve
from jaxpho.data.skyread import nuisance_of
from jaxpho.data.storepack import StoredExposure, check_pair, stored_exposures
from jaxpho.data.tables import fill_template
from jaxpho.data.units import number_or_key
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

_ALLOWED = {
    "meta", "pixels", "band", "name", "sky", "astrometry", "flux_scale_sigma", "psf",
    "on_bad_exposure", "check_filter", "preset", "survey_dir", "error_scale",
}  # fmt: skip
"""What an entry of stores may say; everything else was settled when the stores were made."""


def is_stored(options: ImageOptions) -> bool:
    """Whether an entry of `images` names stores."""
    return options.meta is not None or options.pixels is not None


def read_stored(
    options: ImageOptions, base_dir, bands: Sequence[str], label: str, require_psf: bool
) -> list[StoredExposure]:
    """Exposures of an entry, in the order of the meta store.

    Raises
    ------
    InputError
        For keys that an entry of stores cannot have, and stores that cannot be used.
    """
    _check(options, label)
    base = Path(base_dir)
    paths = [base / os.path.expandvars(p) for p in (options.meta, options.pixels)]
    meta = open_meta_store(paths[0])
    wanted = [options.band] if options.band else bands
    keys = [key for key in meta.keys if key[0] in wanted and key[0] in bands]
    left = sorted({band for band, _ in meta.keys} - {band for band, _ in keys})
    if left:
        log.info("%s: bands %s are not asked for, left out", meta.path, ", ".join(left))
    store = PixelStore(paths[1])
    check_pair(meta, store, wanted)
    out = stored_exposures(meta, store, keys=keys)
    general = resolve(options)
    for exposure in out:
        _complete(exposure, general, base, label, require_psf)
    log.info("%s: %d exposures, %s", store.path, len(out), meta.path)
    return out


def _check(options: ImageOptions, label: str) -> None:
    for name in ("meta", "pixels"):
        if getattr(options, name) is None:
            raise InputError(f"{label}: '{name}' is missing: give both stores, meta and pixels")
    plain = ImageOptions()
    for name, value in vars(options).items():
        if name not in _ALLOWED and value != getattr(plain, name):
            raise InputError(
                f"{label}.{name}: not for exposures of stores, which are calibrated and masked "
                "when the stores are made"
            )
    if options.sky.subtract not in (None, "none", "value"):
        raise InputError(f"{label}.sky.subtract: expected none or value for exposures of stores")
    if options.error_scale != 1.0:
        raise InputError(f"{label}.error_scale: expected 1 for exposures of stores")


class _Header(Mapping):
    """The header of an exposure, parsed when a card is asked for: most templates ask for none."""

    def __init__(self, exposure: StoredExposure):
        self._exposure, self._found = exposure, None

    @property
    def _cards(self):
        if self._found is None:
            self._found = self._exposure.header
        return self._found

    def __getitem__(self, key):
        return self._cards[key]

    def __iter__(self):
        return iter(self._cards)

    def __len__(self):
        return len(self._cards)


def _complete(exposure: StoredExposure, options, base: Path, label: str, require_psf: bool):
    header = _Header(exposure)
    where = exposure.meta.where(exposure.band, exposure.id)
    fields = template_fields(Path(exposure.id), None, options, header)
    # what templates could use for the image itself, they can use for its copy in the store
    fields = {**fields, **(exposure.info.get("row") or {}), **exposure.info.get("fields", {})}
    fields |= {"id": exposure.id, "survey_dir": options.survey_dir or "", "header": header}
    fields |= {"band": exposure.band, "band_upper": exposure.band.upper()}
    if options.name:
        exposure.name = fill_template(options.name, fields, f"{label}.name")
    plan = ImagePlan(
        exposure.name, exposure.band, exposure.meta.path, options, fields,
        exposure.info.get("row"), base,
        shape=exposure.meta.nside(exposure.band, exposure.id)[::-1],
    )  # fmt: skip
    if options.sky.subtract == "value":
        value = number_or_key(options.sky.value, header, None, f"{where}: sky.value")
        exposure.level = 0.0 if value is None else value
        before = exposure.info.get("summary", {}).get("sky_from", "")
        if exposure.level and before and not before.startswith("none"):
            log.warning(
                "%s: sky.value takes %g %s off once more; the store already lacks %s",
                exposure.name, exposure.level, exposure.unit, before,
            )  # fmt: skip
        exposure.notes["sky_from"] = f"the store, {exposure.level:g} subtracted"
    plan.psf = exposure.psf = plan_psf(plan, label)
    if require_psf and plan.psf is None:
        raise InputError(f"{label}: no psf for band {exposure.band} ({exposure.name})")
    exposure.nuisance = nuisance_of(plan, exposure, 1.0)
