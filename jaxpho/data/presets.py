"""What is usual for an instrument or survey: defaults for everything the configuration leaves out.

A preset is an `ImageOptions` with only the usual things said. Adding one is adding an entry.
"""

from __future__ import annotations

import dataclasses
import difflib

from jaxpho.data.options import (
    FileSelector,
    ImageOptions,
    PSFOptions,
    SkyOptions,
    TableOptions,
    WCSOptions,
    ZeroPointOptions,
)
from jaxpho.errors import InputError

_LSST = dict(
    science=FileSelector(ext=1),
    mask=FileSelector(ext=2, optional=True),
    variance=FileSelector(ext=3),
    # the pipeline's DETECTED plane is set on most of a deep image and is not bad
    mask_bits=["BAD", "SAT", "CR", "EDGE", "NO_DATA", "?SUSPECT", "?UNMASKEDNAN"],
)
_ROWS = {"expnum": "{expnum}", "ccdname": "{ccdname}"}
# A DECam Legacy Survey directory: images/, survey-ccds*.fits*, calib/.
_LEGACY = dict(
    science=FileSelector(ext="{ccdname}"),
    weight=FileSelector(replace=["_ooi_", "_oow_"]),
    mask=FileSelector(replace=["_ooi_", "_ood_"]),
    name="{base}-{ccdname}",
    zero_point=ZeroPointOptions(column="ccdzpt"),
    wcs=WCSOptions(offset_ra="ccdraoff", offset_dec="ccddecoff"),
    sky=SkyOptions(
        subtract="file",
        kind="spline",
        file=[
            "{survey_dir}/calib/sky-single/{row_dir}/{base}/{base}-{ccdname}-splinesky.fits",
            "{survey_dir}/calib/sky/{row_dir}/{base}-splinesky.fits",
        ],
        rows=_ROWS,
    ),
    psf=PSFOptions(
        psfex=[
            "{survey_dir}/calib/psfex-single/{row_dir}/{base}/{base}-{ccdname}-psfex.fits",
            "{survey_dir}/calib/psfex/{row_dir}/{base}-psfex.fits",
        ],
        rows=_ROWS,
        includes_pixel=True,
    ),
)


def _legacy(**where):
    return ImageOptions(
        **_LEGACY,
        table=TableOptions(
            file="{survey_dir}/survey-ccds*.fits*",
            filename_column="image_filename",
            root="{survey_dir}/images",
            band_column="filter",
            # a column the table lacks is passed over
            where={"?ccd_cuts": ["0"], **where},
        ),
    )


PRESETS: dict[str, ImageOptions] = {
    "generic": ImageOptions(),
    "jwst": ImageOptions(
        science=FileSelector(ext="SCI"),
        error=FileSelector(ext="ERR"),
        mask=FileSelector(ext="DQ", optional=True),
        mask_bits=[0],  # DO_NOT_USE
    ),
    "hst": ImageOptions(
        science=FileSelector(ext="SCI"), weight=FileSelector(ext="WHT"), mask="none"
    ),
    "hsc": ImageOptions(**_LSST, zero_point=ZeroPointOptions(flux_key="FLUXMAG0", optional=True)),
    "rubin": ImageOptions(**_LSST),
    "legacy": _legacy(),
    "decam": _legacy(camera=["decam"]),
    "bok": _legacy(camera=["90prime"]),
    "mosaic": _legacy(camera=["mosaic"]),
}
# DECam images are in ADU per exposure, those of the other cameras in counts per second.
CAMERAS: dict[str, ImageOptions] = {
    "decam": ImageOptions(zero_point=ZeroPointOptions(column="ccdzpt", exptime="exptime")),
    "90prime": ImageOptions(),
    "mosaic": ImageOptions(),
}
# One of these given by the user replaces the preset's choice of source altogether.
_ALTERNATIVES = {
    "ZeroPointOptions": ("value", "key", "flux_key", "column"),
    "PSFOptions": ("store", "file", "psfex"),
    "SkyOptions": ("subtract", "value"),
    "FileSelector": ("file", "replace", "ext"),
}
_NOISE = ("error", "weight", "variance")


def fill(given, preset):
    """`given` with what it leaves unsaid (None) taken from `preset`, nested.

    Where `given` names a source of its own (a PSF image, a zero point ...), the preset's
    alternatives are dropped.
    """
    if given is None:
        return preset
    if preset is None or type(given) is not type(preset) or not dataclasses.is_dataclass(given):
        return given
    group = _ALTERNATIVES.get(type(given).__name__, ())
    if any(getattr(given, k) is not None for k in group):
        return given
    changes = {}
    for f in dataclasses.fields(given):
        mine, theirs = getattr(given, f.name), getattr(preset, f.name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            changes[f.name] = {**theirs, **mine}
        elif mine is None or dataclasses.is_dataclass(mine):
            changes[f.name] = fill(mine, theirs)
        elif f.default is not dataclasses.MISSING and mine == f.default:
            changes[f.name] = theirs  # a plain default (0, "") says nothing either
    return dataclasses.replace(given, **changes)


def resolve(options: ImageOptions, camera: str | None = None) -> ImageOptions:
    """The options with the preset's defaults filled in.

    Parameters
    ----------
    options : as the configuration gives them.
    camera : camera named by the image's table row; its own defaults come before the preset's.

    Raises
    ------
    InputError
        For an unknown preset.
    """
    name = options.preset or "generic"
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "known: " + ", ".join(PRESETS)
        raise InputError(f"images: unknown preset '{name}'; {hint}")
    if name in ("legacy", "decam", "bok", "mosaic") and not options.survey_dir:
        raise InputError(f"images: preset '{name}' needs survey_dir")
    preset = PRESETS[name]
    if camera in CAMERAS and name in ("legacy", "decam", "bok", "mosaic"):
        preset = fill(CAMERAS[camera], preset)
    if any(getattr(options, k) is not None for k in _NOISE):
        # errors of one kind given: the preset's other kinds do not apply
        preset = dataclasses.replace(preset, **{k: None for k in _NOISE})
    return fill(options, preset)
