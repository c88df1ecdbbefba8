"""The sky of one image as its options say: what is subtracted, what is left free."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from astropy.io import fits

from jaxpho.data import sky as skymod
from jaxpho.data.exposure import Exposure, Nuisance
from jaxpho.data.fitsread import FitsFile
from jaxpho.data.plan import ImagePlan
from jaxpho.data.tables import fill_template, find_file, read_table, row_dict
from jaxpho.data.units import number_or_key
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.ingest")


def subtract_sky(plan: ImagePlan, header, data, usable):
    """What to subtract from an image.

    Parameters
    ----------
    plan, header : of the image.
    data : [ny, nx] in the image's unit.
    usable : [ny, nx] bool.

    Returns
    -------
    level, note : number or [ny, nx] in the image's unit; where it came from.

    Raises
    ------
    InputError
        When the sky options are incomplete or their file cannot be used.
    """
    o, where = plan.options.sky, plan.where
    kind = o.subtract or ("file" if o.file else "value" if o.value is not None else "none")
    if kind == "none":
        values = data[usable]
        middle = np.median(values)
        low = values[values < middle]
        spread = np.median(middle - low) * skymod.MAD_TO_SIGMA if low.size else 0.0
        if middle > 5 * spread > 0:
            log.warning("%s: the median pixel is %.3g, %.0f times the scatter, and no sky is "
                        "subtracted: set sky.subtract", plan.name, middle,
                        middle / spread)  # fmt: skip
        return 0.0, "none subtracted"
    if kind == "value":
        if o.value is None:
            raise InputError(f"{where}: sky.subtract: value needs sky.value")
        level = number_or_key(o.value, header, plan.row, f"{where}: sky.value")
        return level, f"value {level:g} subtracted"
    if kind == "estimate":
        level = skymod.estimate_sky(data, usable, o.mesh or 0)
        shape = f"mesh of {o.mesh} pixels" if np.ndim(level) else f"{float(level):.5g}"
        log.warning("%s: sky estimated from the image itself (%s); on a small image the wings of "
                    "a galaxy are taken for sky", plan.name, shape)  # fmt: skip
        return level, f"estimate from the image subtracted ({shape})"
    if o.file is None:
        raise InputError(f"{where}: sky.subtract: file needs sky.file")
    path = find_file(o.file, plan.fields, plan.base, f"{where}: sky.file")
    return _sky_model(plan, path, data.shape), f"model {path.name} subtracted"


def _sky_model(plan: ImagePlan, path: Path, shape):
    o = plan.options.sky
    kind = o.kind
    if kind is None:
        with FitsFile(path) as f:
            tables = [h for h in f.hdus if isinstance(h, fits.BinTableHDU)]
            kind = "spline" if tables and not isinstance(tables[0], fits.CompImageHDU) else "mesh"
    if kind == "mesh":
        with FitsFile(path) as f:
            return skymod.mesh_sky(f.image(f.index(o.ext)), shape, str(path))
    table = read_table(path)
    wanted = {k: fill_template(v, plan.fields, "sky.rows") for k, v in (o.rows or {}).items()}
    rows = range(len(table))
    if len(table) > 1 or wanted:
        plain = [row_dict(table, i) for i in rows]
        missing = [k for k in wanted if k not in table.colnames]
        if missing:
            raise InputError(f"{path}: no column '{missing[0]}' (sky.rows)")
        rows = [i for i in rows if all(str(plain[i].get(k)) == v for k, v in wanted.items())]
    if len(rows) != 1:
        raise InputError(f"{path}: {len(rows)} rows fit {wanted or 'any image'}, expected one")
    row = {name: table[name][rows[0]] for name in table.colnames}
    return skymod.spline_sky(row, shape, str(path))


def nuisance_of(plan: ImagePlan, exposure: Exposure, factor: float) -> Nuisance:
    """The nuisances that the options leave free, with priors in the exposure's unit.

    `factor` is that unit per image unit. A prior "blank" has mean and width from the blank
    pixels; a width given as a number has mean 0.
    """
    o, a = plan.options.sky, plan.options.astrometry
    out = Nuisance(a.offset_sigma, a.offset_group, plan.options.flux_scale_sigma, o.nuisance)
    if o.nuisance == "none":
        return out
    stats = getattr(exposure, "blank", None)  # noted when the exposure was stored
    if stats is None:
        stats = skymod.blank_statistics(exposure.data, exposure.ierr > 0)
    width = number_or_key(o.sigma, exposure.header, plan.row, f"{plan.where}: sky.sigma") if (
        o.sigma != "blank"
    ) else None  # fmt: skip
    if width is not None:
        out.sky_sigma = float(width) * factor
    else:
        out.sky_mean, out.sky_sigma = stats.mean, stats.error
        few = stats.npix < 50 or stats.fraction < skymod.MIN_BLANK_FRACTION
        if few:
            out.sky_sigma = max(stats.error, stats.scatter)
            log.warning("%s: only %d blank pixels tell the sky: its prior is as wide as the "
                        "noise of one pixel", plan.name, stats.npix)  # fmt: skip
    if not out.sky_sigma > 0:
        raise InputError(f"{plan.where}: sky.sigma is {out.sky_sigma}, expected > 0")
    slope = o.slope_sigma * factor if o.slope_sigma else max(out.sky_sigma, stats.structure)
    out.sky_slope_sigma = slope if o.nuisance == "plane" else 0.0
    log.info(
        "%s: a %s sky is free with prior %.4g +- %.4g %s per pixel (%d blank pixels, %.0f %% of "
        "the image); a sky free without prior is degenerate with the wings of a galaxy on a "
        "small image",
        plan.name, o.nuisance, out.sky_mean, out.sky_sigma, exposure.unit, stats.npix,
        100 * stats.fraction,
    )  # fmt: skip
    exposure.notes["sky_from"] += f"; {o.nuisance} left free"
    return out
