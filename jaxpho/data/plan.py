"""Which files make which exposure: everything that can be known without reading pixels."""

from __future__ import annotations

import dataclasses
import glob
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxpho.data.exposure import PSFInput
from jaxpho.data.fitsread import BadExposure, FitsFile, is_product
from jaxpho.data.options import FileSelector, ImageOptions
from jaxpho.data.presets import resolve
from jaxpho.data.tables import (
    bare,
    fill_template,
    find_file,
    read_table,
    row_dict,
    same_file,
    select_rows,
)
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")

_STANDARD_FILTER = re.compile(r"f\d{3,4}(w|m|n|lp|x|w2)|[ugrizyjhk]")
_FILTER_CARDS = ("FILTER", "FILTER1", "FILTER2", "PUPIL", "FILTNAM1", "FILTNAM", "BAND")


@dataclass
class ImagePlan:
    """One exposure to be read.

    Attributes
    ----------
    name, band : as in `Exposure`; the band is "" when the file could not be opened.
    path : the image file.
    options : with the preset's defaults filled in.
    fields : what templates may use; `header` and the columns of the table row among them.
    row : the joined table row, or None.
    base : folder of relative paths.
    entry : what errors call its entry of `images`.
    problem : why the file cannot be used, or "".
    damaged : the problem is the file's own, not perhaps the configuration's.
    extensions : names of the file's extensions.
    njy, scale : nJy per unit of an image that keeps its own, where known, and what it is
        multiplied by; see `jaxpho.data.commonscale`.
    """

    name: str
    band: str
    path: Path
    options: ImageOptions
    fields: dict
    row: dict | None
    base: Path
    problem: str = ""
    damaged: bool = True
    entry: str = ""
    shape: tuple[int, int] = (0, 0)
    psf: PSFInput | None = None
    notes: dict = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    njy: float | None = None
    scale: float = 1.0

    @property
    def where(self) -> str:
        """Names the exposure in errors."""
        return str(self.path)


def plan_images(
    options: Sequence[ImageOptions],
    base_dir,
    bands: Sequence[str],
    require_psf: bool = False,
    labels: Sequence[str] | None = None,
    known: Sequence[str] = (),
    find_psf: bool = True,
) -> list[ImagePlan]:
    """Find every file that the configuration names.

    Parameters
    ----------
    options : entries of `images`.
    base_dir : folder of relative paths.
    bands : bands of the run; images of others are left out.
    require_psf : an image without PSF is an error.
    labels : what errors call the entries; default images.0, images.1 ...
    known : bands that have exposures from elsewhere.
    find_psf : look for the PSFs; False for what does without, like stores.

    Returns
    -------
    plans : sorted by band, then in the order of the configuration and of file names.

    Raises
    ------
    InputError
        For a pattern that matches nothing, missing files, unknown presets, filters that differ
        from the band, duplicate names, bands without images.
    """
    base = Path(base_dir)
    plans = []
    for k, entry in enumerate(options):
        label = f"images.{k}" if labels is None else labels[k]
        general = resolve(entry)
        found = _find_images(general, base, label, bands)
        for path, row in found:
            camera = str(row.get("camera", "")) if row else None
            own = resolve(entry, camera)
            if not find_psf:
                own = dataclasses.replace(own, psf=None)  # the preset's, too
            plan = _plan_one(path, row, own, base, bands, label, require_psf)
            if plan is not None:
                plan.entry = label
                plans.append(plan)
    seen: dict[str, Path] = {}
    for plan in plans:
        if plan.name in seen:
            raise InputError(
                f"exposure name '{plan.name}' is used twice, by {seen[plan.name]} and {plan.path}; "
                "set `name` to a template that tells them apart, for example '{band}-{stem}'"
            )
        seen[plan.name] = plan.path
    usable = {plan.band for plan in plans if not plan.problem} | set(known)
    for band in bands:
        if band not in usable:
            bad = next((p.problem for p in plans if p.band in (band, "") and p.problem), None)
            reason = f": {bad}" if bad else "; no entry of `images` gives one"
            raise InputError(f"band {band} has no usable exposure{reason}")
    order = {band: i for i, band in enumerate(bands)}
    return sorted(plans, key=lambda p: order.get(p.band, len(order)))


def _patterns(files, base: Path, options: ImageOptions) -> list[str]:
    fields = {"survey_dir": options.survey_dir or "", "band": options.band or "{band}"}
    out = []
    for pattern in [files] if isinstance(files, str) else files:
        for name, value in fields.items():
            pattern = pattern.replace("{" + name + "}", value)
        out.append(str(base / os.path.expandvars(os.path.expanduser(pattern))))
    return out


def _find_images(options: ImageOptions, base: Path, label: str, bands) -> list[tuple]:
    """(path, table row or None) of an entry's images."""
    table = rows = None
    t = options.table
    if t is not None and t.file:
        fields = {"survey_dir": options.survey_dir or ""}
        file = find_file(t.file, fields, base, f"{label}.table")
        table = read_table(file)
        rows = [row_dict(table, i) for i in select_rows(table, t.where, str(file))]
        for column in [t.filename_column, t.band_column, *(t.match or {})]:
            if column and column not in table.colnames:
                raise InputError(f"{file}: no column '{column}' (images.table)")
        if t.band_column:
            wanted = [options.band] if options.band else list(bands)
            rows = [r for r in rows if str(r.get(t.band_column)) in wanted]
        if options.files is None:
            if not t.filename_column:
                raise InputError(f"{label}: give `files`, or table.filename_column")
            root = base / fill_template(t.root, fields, f"{label}.table.root")
            if not rows:
                raise InputError(f"{file}: no row is left for {label} (band, where)")
            return [(_listed(root / r[t.filename_column], label), r) for r in rows]
    if options.files is None:
        raise InputError(f"{label}: `files` is missing")
    paths: list[str] = []
    for pattern in _patterns(options.files, base, options):
        single = os.path.isfile(pattern) or os.path.isdir(pattern)
        found = [pattern] if single else sorted(glob.glob(pattern, recursive=True))
        found = [p for p in found if os.path.isfile(p)]
        if not found:
            kind = "matches no file" if glob.has_magic(pattern) else "does not exist"
            if os.path.isdir(pattern):
                kind = "is a folder, expected a file or a pattern such as folder/*.fits"
            raise InputError(f"{label}.files: {pattern} {kind}")
        if not single:
            found = _without_products(found, f"{label}.files: {pattern}")
        paths += [p for p in found if p not in paths]
    if rows is None:
        return [(Path(p), None) for p in paths]
    return [(Path(p), _join(p, rows, t, label)) for p in paths]


def _without_products(paths: list[str], where: str) -> list[str]:
    """Files of a pattern that are data: a run's own images may lie where it looks for data."""
    own = {p for p in paths if is_product(p)}
    for p in sorted(own):
        log.info("%s: written by jaxpho, not taken for data", p)
    if len(own) == len(paths):
        raise InputError(f"{where} matches nothing but results of jaxpho, such as {min(own)}")
    return [p for p in paths if p not in own]


def _listed(path: Path, label: str) -> Path:
    """A file that a table lists, whichever its compression."""
    stem = bare(str(path))
    for candidate in (str(path), stem, *(stem + s for s in (".fz", ".gz"))):
        if os.path.isfile(candidate):
            return Path(candidate)
    raise InputError(f"{label}: {path}, listed in the table, does not exist")


def _join(path: str, rows: list[dict], table, label: str) -> dict:
    if table.filename_column:
        hits = [r for r in rows if same_file(path, str(r.get(table.filename_column)))]
        key = table.filename_column
    elif table.match:
        with FitsFile(path) as f:
            header = f.header(f.index(None))
        hits = rows
        for column, card in table.match.items():
            if card not in header:
                raise InputError(f"{path}: no header card '{card}' ({label}.table.match)")
            hits = [r for r in hits if str(r.get(column)) == str(header[card]).strip()]
        key = ", ".join(table.match)
    else:
        raise InputError(f"{label}.table: give filename_column or match to join rows and images")
    if len(hits) != 1:
        raise InputError(f"{path}: {len(hits)} table rows agree in {key}, expected one")
    return hits[0]


def template_fields(path: Path, row: dict | None, options: ImageOptions, header) -> dict:
    """What `{name}` fields of templates may use for an image."""
    name = path.name
    stem = re.sub(r"\.(fits|fit|npy)$", "", bare(name), flags=re.IGNORECASE)
    fields = {"file": str(path), "dir": str(path.parent), "stem": stem, "base": name.split(".")[0]}
    fields |= {"survey_dir": options.survey_dir or "", "header": header, "band": options.band or ""}
    if row is not None:
        column = options.table.filename_column
        if column and column in row:
            fields["row_dir"] = os.path.dirname(row[column])
        fields = {**row, **fields}
    return fields


def header_filters(header) -> list[str]:
    """Words of the header's filter cards, lower case: "HSC-I" gives hsc, i."""
    words = []
    for card in _FILTER_CARDS:
        words += re.split(r"[^a-z0-9]+", str(header.get(card, "")).lower())
    return [w for w in words if w and not w.startswith("clear")]


def _band_of(plan_options, row, header, bands, where) -> str | None:
    """The image's band, None when it is not one of the run's."""
    given = plan_options.band
    column = plan_options.table.band_column if plan_options.table else None
    if given is None and column and row is not None:
        given = str(row[column])
        return given if given in bands else None
    words = header_filters(header)
    if given is None:
        if not words:
            raise InputError(f"{where}: no FILTER card tells the band; set `band`")
        hits = [b for b in bands if b.lower() in words]
        if len(hits) > 1:
            raise InputError(f"{where}: FILTER fits several bands ({', '.join(hits)}); set `band`")
        return hits[0] if hits else None
    if given not in bands:
        raise InputError(f"{where}: band '{given}' is not in `bands` ({', '.join(bands)})")
    if plan_options.check_filter and words and given.lower() not in words:
        others = {b.lower() for b in bands}
        known = [w for w in words if w in others or _STANDARD_FILTER.fullmatch(w)]
        standard = _STANDARD_FILTER.fullmatch(given.lower())
        if any(w in others for w in known) or (known and standard):
            raise InputError(
                f"{where}: the header's filter is '{known[0]}' but the configuration says band "
                f"'{given}'; correct `band`, or set check_filter: false"
            )
        log.warning("%s: band %s, but the header's filter is %s", where, given, " ".join(words))
    return given


def _plan_one(path, row, options, base, bands, label, require_psf) -> ImagePlan | None:
    """The plan of one image; None when its band is not wanted."""
    path = Path(path)
    try:
        with FitsFile(path) as f:
            fields = template_fields(path, row, options, {})
            index = f.index(science_ext(options, fields, str(path)))
            header = f.header(index)
            shape = (header.get("NAXIS2", 0), header.get("NAXIS1", 0))
            extensions = tuple(hdu.name for hdu in f.hdus)
    except InputError as error:
        if options.on_bad_exposure == "stop":
            raise
        damaged = isinstance(error, BadExposure)
        return ImagePlan(
            path.stem, options.band or "", path, options, {}, row, base, str(error), damaged
        )
    band = _band_of(options, row, header, bands, str(path))
    if band is None:
        log.info("%s: its band is not in `bands`, left out", path)
        return None
    fields |= {"header": header, "band": band, "band_upper": band.upper()}
    name = fill_template(options.name or "{stem}", fields, f"{label}.name")
    plan = ImagePlan(name, band, path, options, fields, row, base, shape=shape)
    plan.extensions = extensions
    for kind in ("error", "weight", "variance", "mask"):
        selector = as_selector(getattr(options, kind), plain=("estimate",))
        if selector is not None:
            locate(plan, selector, f"{label}.{kind}")
    plan.psf = plan_psf(plan, label)
    if require_psf and plan.psf is None:
        raise InputError(f"{label}: no psf for band {band} ({path.name})")
    return plan


def science_ext(options: ImageOptions, fields: dict, where: str):
    """Extension of the science image, templates filled; None means the first image."""
    selector = as_selector(options.science)
    if selector is None:
        return None
    if selector.file or selector.replace:
        raise InputError(f"{where}: science: the file is given by `files`; only ext is allowed")
    ext = selector.ext
    return fill_template(ext, fields, where) if isinstance(ext, str) else ext


def as_selector(value, plain: tuple[str, ...] = ()) -> FileSelector | None:
    """A selector from its short forms; None for nothing, "none" and the words in `plain`."""
    if value is None or (isinstance(value, str) and value.lower() in ("none", *plain)):
        return None
    return value if isinstance(value, FileSelector) else FileSelector(ext=value)


def locate(plan: ImagePlan, selector: FileSelector, where: str):
    """(path, extension or None) of a selector; path None when an optional file is missing."""
    ext = selector.ext
    if isinstance(ext, str):
        ext = fill_template(ext, plan.fields, where)
    try:
        if selector.file:
            return find_file(selector.file, plan.fields, plan.base, where), ext
        if not selector.replace:
            return plan.path, ext
        if len(selector.replace) != 2:
            raise InputError(f"{where}.replace: expected [old, new], found {selector.replace}")
        old, new = selector.replace
        if old not in plan.path.name:
            raise InputError(f"{where}.replace: '{old}' is not in the file name {plan.path.name}")
        target = plan.path.with_name(plan.path.name.replace(old, new))
        stem = bare(str(target))
        for candidate in (str(target), stem, stem + ".gz", stem + ".fz"):
            if os.path.isfile(candidate):
                return Path(candidate), ext
        raise InputError(f"{where}: {target} does not exist")
    except InputError:
        if selector.optional:
            return None, ext
        raise


def plan_psf(plan: ImagePlan, label: str) -> PSFInput | None:
    """Where the PSF of an exposure comes from; None when its entry names none."""
    o = plan.options.psf
    if o is None:
        return None
    given = [k for k in ("store", "file", "psfex") if getattr(o, k) is not None]
    if len(given) != 1:
        raise InputError(
            f"{label}.psf: expected exactly one of store, file, psfex; found "
            f"{', '.join(given) or 'none'}"
        )
    kind, where = given[0], f"{label}.psf.{given[0]}"
    path = find_file(getattr(o, kind), plan.fields, plan.base, where)
    plan.notes["psf_from"] = str(path)
    out = PSFInput("image" if kind == "file" else kind, path, ext=o.ext)
    out.options = dataclasses.replace(o)
    if kind == "store":
        out.group = fill_template(o.group or "{band}", plan.fields, f"{label}.psf.group")
    if kind == "psfex":
        out.rows = {k: fill_template(v, plan.fields, where) for k, v in (o.rows or {}).items()}
    if isinstance(o.oversample, str):
        out.oversample_key = o.oversample
    elif o.oversample is not None:
        out.oversample = float(o.oversample)
    return out
