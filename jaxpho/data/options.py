"""What the configuration may say about images, PSFs and peaks: dataclasses with help and units.

A value of None means "not said": the preset fills it (`jaxpho.data.presets`), else the default
named in the help text holds. Texts marked as templates may contain `{name}` fields: columns of
the joined table row, header cards as `{header[EXPNUM]}`, and `{file} {dir} {base} {stem} {band}`.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field


def _opt(default=MISSING, help: str = "", **metadata):
    metadata["help"] = help
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class FileSelector:
    """One array: which file, which extension. Plain text or a number means `ext`."""

    file: str | list[str] | None = _opt(
        None,
        "template of the file, or several of which the first existing is read; default: the "
        "image file itself, after `replace`",
    )
    replace: list[str] | None = _opt(
        None, "[old, new]: replaces text in the image's file name, for example [ooi, oow]"
    )
    ext: str | int | None = _opt(
        None,
        "extension name or number; default: the science extension's number in another file "
        "of the same layout, else the first extension that holds an image",
    )
    optional: bool = _opt(False, "missing is not an error: the image goes without")


@dataclass
class TableOptions:
    """A table with one row per image (a survey's list of CCDs)."""

    file: str = _opt("", "FITS, ECSV or CSV table")
    filename_column: str | None = _opt(
        None,
        "column with the image's path: joins images and rows, and lists the images when "
        "`files` is not given",
    )
    root: str = _opt("", "folder that the paths in `filename_column` are relative to")
    match: dict[str, str] | None = _opt(
        None, "column -> header card that must agree, to join a row when there is no file name"
    )
    where: dict[str, list[str]] | None = _opt(
        None, "column -> accepted values: other rows are left out"
    )
    band_column: str | None = _opt(None, "column with the band")


@dataclass
class ZeroPointOptions:
    """AB magnitude of one image unit. A plain number means `value`."""

    _shorthand = "value"
    value: float | None = _opt(None, "AB zero point of one image unit", unit="mag")
    key: str | None = _opt(None, "header card that holds the zero point (MAGZPT)")
    flux_key: str | None = _opt(
        None, "header card with the image units of an AB = 0 source (HSC: FLUXMAG0)"
    )
    column: str | None = _opt(None, "column of the joined table")
    optional: bool = _opt(False, "a missing card is no error: BUNIT is used instead")
    exptime: bool | str | float | None = _opt(
        None,
        "the zero point is for one unit per second and the image is in units per exposure: "
        "add 2.5 log10(exposure time); true (EXPTIME), a card or column, or seconds",
        unit="s",
    )


@dataclass
class ShotNoiseOptions:
    """Adds the noise of the sources, |image - sky| / (gain x exptime), to the variance."""

    gain: float | str | None = _opt(None, "number, card or column", unit="electron/unit")
    exptime: float | str | None = _opt(None, "number, card or column", unit="s")


@dataclass
class WCSOptions:
    """Mends the header's WCS, or makes one for an image without."""

    header: dict[str, float | int | str] | None = _opt(
        None, "header cards that replace or complete the file's, for example {PC1_2: -0.76}"
    )
    remove: list[str] | None = _opt(None, "header cards to ignore")
    ext: str | int | None = _opt(None, "take the WCS from this extension; default: the image's")
    repair_pc: int | None = _opt(
        None,
        "the off-diagonal PC terms are missing: set both to -sqrt(1 - PC1_1^2) (-1) or "
        "+sqrt(1 - PC1_1^2) (+1)",
        choices=[-1, 1],
    )
    pixel_scale: float | None = _opt(
        None, "makes a tangent-plane WCS with this scale; needs ra and dec", unit="arcsec", gt=0
    )
    ra: float | None = _opt(None, "position of the reference pixel", unit="deg")
    dec: float | None = _opt(None, "position of the reference pixel", unit="deg")
    x: float | None = _opt(None, "reference pixel, 0-indexed; default: image centre", unit="pixel")
    y: float | None = _opt(None, "reference pixel, 0-indexed; default: image centre", unit="pixel")
    rotation: float = _opt(0.0, "direction of +y on the sky, East of North", unit="deg")
    parity: int = _opt(
        1, "1: East is 90 deg counter-clockwise of North; -1: mirrored", choices=[-1, 1]
    )
    offset_ra: float | str | None = _opt(
        None, "added to the right ascension times cos(dec): number or column", unit="arcsec"
    )
    offset_dec: float | str | None = _opt(
        None, "added to the declination: number or column", unit="arcsec"
    )
    gwcs: bool = _opt(
        True, "use the gwcs of an ASDF extension when there is one and gwcs is installed"
    )


@dataclass
class SkyOptions:
    """Sky level of one image: what is subtracted, what stays free in the fit."""

    subtract: str | None = _opt(
        None,
        "none: nothing (default); value: `value`; file: a sky model; estimate: from the "
        "image, sources clipped",
        choices=["none", "value", "file", "estimate"],
    )
    value: float | str | None = _opt(None, "number, card or column", unit="image unit")
    file: str | list[str] | None = _opt(None, "template(s) of the sky model file: first existing")
    kind: str | None = _opt(
        None,
        "spline: table row with gridvals, xgrid, ygrid, x0, y0 (legacypipe); mesh: image of "
        "lower resolution, stretched over the image; default: by what the file holds",
        choices=["spline", "mesh"],
    )
    ext: str | int | None = _opt(None, "extension of the sky model")
    rows: dict[str, str] | None = _opt(
        None, "column of a merged sky table -> template of its value, to pick the row"
    )
    mesh: int | None = _opt(
        None, "box size of the estimate; 0: one level for the image (default)", unit="pixel", ge=0
    )
    nuisance: str = _opt(
        "none",
        "what the fit leaves free: none, a constant, or a plane. Never free without a "
        "prior: on a small image the sky is degenerate with the wings of a galaxy",
        choices=["none", "constant", "plane"],
    )
    sigma: float | str = _opt(
        "blank",
        "width of the prior of the free sky; blank: from the blank pixels",
        unit="image unit",
    )
    slope_sigma: float | None = _opt(
        None,
        "width of the prior of the plane's change over half the image; default: as sigma",
        unit="image unit",
        gt=0,
    )


@dataclass
class AstrometryOptions:
    """A shift left free in the fit."""

    offset_sigma: float = _opt(
        0.0, "prior width of the shift in each axis; 0: none", unit="arcsec", ge=0
    )
    offset_group: str = _opt("exposure", "who shares one shift", choices=["exposure", "band"])


@dataclass
class PSFOptions:
    """Where the PSF comes from: a mixture store, an image, or a PSFEx model."""

    store: str | None = _opt(None, "HDF5 store of Gaussian mixtures (template)")
    group: str | None = _opt(None, "group in the store (template); default: the band")
    file: str | list[str] | None = _opt(None, "PSF image (template, the first existing is read)")
    ext: str | int | None = _opt(None, "extension of the PSF image")
    psfex: str | list[str] | None = _opt(
        None, "PSFEx file (template, the first existing is read), evaluated at every source"
    )
    rows: dict[str, str] | None = _opt(
        None, "column of a merged PSFEx table -> template of its value, to pick the row"
    )
    oversample: float | str | None = _opt(
        None, "PSF samples per image pixel, or the header card that says so; default 1", gt=0
    )
    rotate: float = _opt(0.0, "turn the PSF image counter-clockwise by this angle", unit="deg")
    trim: int = _opt(0, "cut this many samples off every side", unit="sample", ge=0)
    center: str = _opt(
        "peak",
        "what is put at the source's position: the fitted centre of the "
        "core, the middle of the stamp, or the centroid",
        choices=["peak", "stamp", "centroid"],
    )
    normalize: str = _opt(
        "unit",
        "unit: the mixture sums to 1; stamp: to the sum of the stamp",
        choices=["unit", "stamp"],
    )
    includes_pixel: bool | None = _opt(
        None,
        "the PSF is already integrated over the image's pixel; default: yes for PSFEx and "
        "natively sampled images, else no",
    )
    ngauss: int | None = _opt(None, "Gaussians of the mixture; default 4", ge=1, le=16)
    signed: bool = _opt(False, "allow negative Gaussians")
    method: str = _opt(
        "linear", "between the detector locations of a store", choices=["linear", "nearest"]
    )


@dataclass
class ImageOptions:
    """One entry of `images`: exposures that are read in the same way."""

    band: str | None = _opt(
        None, "band name; default: from the table or the FILTER card", example="g"
    )
    files: str | list[str] | None = _opt(
        None,
        "image file(s) or glob pattern(s); default: the files listed in `table`",
        path=True,
        example="images/*_g_*.fits",
    )
    meta: str | None = _opt(
        None, "meta store (JSON) of exposures in stores, instead of `files`; see `jaxpho "
        "preprocess`", path=True
    )  # fmt: skip
    pixels: str | None = _opt(None, "pixel store (HDF5) that belongs to `meta`", path=True)
    preset: str | None = _opt(
        None,
        "jwst, hst, hsc, rubin, decam, bok, mosaic, legacy (a survey directory with any of "
        "the three), or generic (default)",
    )
    survey_dir: str | None = _opt(None, "survey directory of decam, bok, mosaic, legacy", path=True)
    name: str | None = _opt(None, "exposure name (template); default: {stem}")
    science: FileSelector | str | int | None = _opt(None, "the image; default: first image found")
    error: FileSelector | str | int | None = _opt(
        None, "1-sigma errors; 'none'; 'estimate': one value from the blank pixels"
    )
    weight: FileSelector | str | int | None = _opt(None, "inverse variance, or 'none'")
    variance: FileSelector | str | int | None = _opt(None, "variance, or 'none'")
    mask: FileSelector | str | int | None = _opt(None, "mask, or 'none'")
    mask_bits: list[int | str] | None = _opt(
        None, "bits (numbers, or names of MP_ cards) that mean bad; default: any nonzero value"
    )
    mask_good: bool | None = _opt(None, "nonzero means good (default false)")
    mask_regions: list[list[int]] | None = _opt(
        None,
        "rectangles to ignore, [x0, x1, y0, y1], 0-indexed, upper ends excluded",
        unit="pixel",
    )
    error_scale: float = _opt(1.0, "errors are multiplied by this", gt=0)
    shot_noise: ShotNoiseOptions | None = _opt(None, "add the sources' own noise to the variance")
    unit: str | None = _opt(
        None,
        "unit of the pixels when BUNIT is missing or wrong (MJy/sr, nJy, electron/s, ...); "
        "'image': keep the image's own unit",
    )
    zero_point: ZeroPointOptions | None = _opt(None, "AB zero point, comes before BUNIT")
    pixel_area: float | str | None = _opt(
        None,
        "pixel solid angle, or the card that holds it; default: PIXAR_SR, PIXAR_A2, the WCS",
        unit="sr",
    )
    table: TableOptions | None = _opt(None, "table with one row per image")
    wcs: WCSOptions = _opt(WCSOptions, "mends or makes the WCS")
    sky: SkyOptions = _opt(SkyOptions, "sky level")
    astrometry: AstrometryOptions = _opt(AstrometryOptions, "free shifts")
    flux_scale_sigma: float = _opt(
        0.0, "prior width of a free relative flux scale per exposure; 0: none", ge=0
    )
    psf: PSFOptions | None = _opt(None, "the PSF")
    check_filter: bool = _opt(True, "compare the band with the header's FILTER")
    on_bad_exposure: str = _opt(
        "flag",
        "an exposure that cannot be used (all masked, damaged, shapes that differ, no WCS ...): "
        "flag (left out, its sources are flagged, while its band has others and other exposures "
        "of the entry can be used) or stop",
        choices=["flag", "stop"],
    )


@dataclass
class DetectOptions:
    """Peaks from the images, by sep."""

    bands: list[str] | None = _opt(None, "bands of the detection image; default: all")
    exposures: list[str] | None = _opt(None, "exposures of the detection image; default: of bands")
    threshold: float = _opt(3.0, "per pixel, in units of the noise", gt=0)
    min_area: int = _opt(5, "pixels above the threshold", unit="pixel", ge=1)
    min_sn: float = _opt(5.0, "fainter detections are dropped (S/N of all exposures)", ge=0)
    deblend_contrast: float = _opt(0.005, "smaller: blends are split further")
    mesh: int = _opt(64, "box size of the background; 0: none", unit="pixel", ge=0)
    point_like: bool = _opt(False, "call sources no wider than the PSF 'point'")


@dataclass
class CatalogOptions:
    """The peaks: a catalogue, or detection."""

    file: str | None = _opt(None, "FITS, ECSV or CSV table", example="peaks.fits", path=True)
    format: str | None = _opt(
        None,
        "tractor: columns of a Tractor catalogue; forcepho: a forcepho catalogue; plain (default)",
        choices=["plain", "tractor", "forcepho"],
    )
    columns: dict[str, str] | None = _opt(
        None,
        "our name -> column (ra, dec, id, type, rhalf, rhalf_major, sersic, q, pa, e1, e2, "
        "a, b, fixed; flux or mag: a template with {band}, or flux_<band>, mag_<band>)",
    )
    flux_unit: str | None = _opt(
        None, "nJy, uJy, Jy, nanomaggy, mag, or 'image'; default: the column's unit, else nJy"
    )
    type: str | None = _opt(None, "source type where the catalogue has none; default sersic")
    types: dict[str, str] | None = _opt(None, "id -> source type")
    defaults: dict[str, float] | None = _opt(None, "parameter -> value where the table has none")
    fixed: list[str] | None = _opt(None, "parameters held at the catalogue's value, all sources")
    fixed_by_id: dict[str, list[str]] | None = _opt(None, "id -> parameters held")
    ids: list[str] | None = _opt(None, "read these sources only")
    positions: list[list[float]] | None = _opt(None, "peaks written here, [ra, dec]", unit="deg")
    detect: bool = _opt(False, "find the peaks in the images (needs sep)")
    detection: DetectOptions = _opt(DetectOptions, "how to detect")
