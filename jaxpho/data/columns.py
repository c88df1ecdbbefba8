"""Which column of a catalogue holds what: named layouts and the user's own map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxpho.core.sources import SOURCE_TYPES
from jaxpho.errors import InputError

# What the ellipticity parameters need to be known.
SHAPE_COLUMNS = {"e1": ("q", "pa"), "e2": ("q", "pa")}


class Format(NamedTuple):
    """A catalogue layout.

    Attributes
    ----------
    columns : our name -> column; `{band}` stands for the band.
    types : the catalogue's type -> ours; None marks an entry to leave out.
    flux_unit : unit of the fluxes when the columns do not tell, or tell it unreadably.
    forcepho : q is sqrt(b/a), pa from East towards North, in radians unless the column tells.
    """

    columns: dict[str, str]
    types: dict[str, str | None] = {}
    flux_unit: str | None = None
    forcepho: bool = False


FORMATS = {
    "plain": Format({}),
    # shape_r is the half-light radius along the major axis
    "tractor": Format(
        {"id": "objid", "type": "type", "ra": "ra", "dec": "dec", "rhalf_major": "shape_r",
         "e1": "shape_e1", "e2": "shape_e2", "sersic": "sersic", "flux": "flux_{band}"},
        {"PSF": "point", "REX": "exp", "EXP": "exp", "DEV": "dev", "SER": "sersic",
         "SIMP": "exp", "COMP": "bulge_disk", "DUP": None},
        "nanomaggy",
    ),
    "forcepho": Format(
        {"id": "id", "ra": "ra", "dec": "dec", "rhalf": "rhalf", "q": "q", "pa": "pa",
         "sersic": "sersic", "flux": "{band}"},
        {}, "nJy", True,
    ),
}  # fmt: skip

_SINGLE = ("id", "type", "ra", "dec", "fixed")
_SHAPES = ("rhalf", "rhalf_major", "sersic", "q", "pa", "e1", "e2", "a", "b")
_SUFFIXES = ("", *sorted({c.suffix for t in SOURCE_TYPES.values() for c in t.components} - {""}))
_FLUX_TEMPLATES = ("flux{part}_{band}", "{band}_flux{part}", "flux{part}_{lower}",
                   "{lower}_flux{part}")  # fmt: skip
_SYNONYMS = {"id": ("id", "objid", "source_id", "number"), "fixed": ("fixed", "held"),
             "dec": ("dec", "decl", "de"), "rhalf": ("rhalf", "r_half", "re"),
             "sersic": ("sersic", "n_sersic")}  # fmt: skip


def find_columns(
    names: Sequence[str], options, bands: Sequence[str], label: str
) -> dict[tuple[str, str], str]:
    """Columns to read.

    Parameters
    ----------
    names : columns of the table.
    options : CatalogOptions: `format`, `columns`.
    bands : bands of the run.
    label : names the catalogue in errors.

    Returns
    -------
    columns : (our name, "") -> column; (flux name, band) -> column, where a name that begins with
        "flux:mag" holds magnitudes.

    Raises
    ------
    InputError
        For a mapped column that is missing, an unknown name in the map, or no ra and dec.
    """
    form = FORMATS.get(options.format or "plain")
    if form is None:
        raise InputError(f"peaks.format: unknown '{options.format}'; known: {', '.join(FORMATS)}")
    folded = {n.lower(): n for n in reversed(list(names))}
    shapes = [s + suffix for s in _SHAPES for suffix in _SUFFIXES]
    fluxes = [kind + suffix for kind in ("flux", "mag") for suffix in _SUFFIXES]
    out: dict[tuple[str, str], str] = {}

    def put(key, column, required):
        if column in names:
            out[key] = column
        elif column.lower() in folded:
            out[key] = folded[column.lower()]
        elif required:
            raise InputError(
                f"{label}: no column '{column}' (for {key[0]}); found: {', '.join(names)}"
            )

    if not form.columns:
        for name in (*_SINGLE, *shapes):
            for synonym in _SYNONYMS.get(name, (name,)):
                if (name, "") not in out:
                    put((name, ""), synonym, False)
        for name in fluxes:
            for band in bands:
                for template in _FLUX_TEMPLATES:
                    kind, part = name[:4].rstrip("_"), name.removeprefix("flux").removeprefix("mag")
                    text = template.replace("flux", kind if kind == "flux" else "mag")
                    column = text.format(part=part, band=band, lower=band.lower())
                    key = (_flux_key(name), band)
                    if key not in out:
                        put(key, column, False)
    for source, required in ((form.columns, False), (options.columns or {}, True)):
        for name, column in source.items():
            base, band = _split_band(name, bands)
            if name in (*_SINGLE, *shapes):
                put((name, ""), column, required)
            elif name in fluxes:
                if "{band}" not in column and len(bands) > 1:
                    raise InputError(
                        f"peaks.columns.{name}: '{column}' needs {{band}} as there are "
                        f"{len(bands)} bands"
                    )
                for each in bands:
                    # a band that the catalogue does not have is no error: moments start it
                    put((_flux_key(name), each), column.replace("{band}", each), False)
            elif base in fluxes and band is not None:
                put((_flux_key(base), band), column, required)
            else:
                raise InputError(
                    f"peaks.columns: unknown name '{name}'; known: {', '.join(_SINGLE)}, "
                    f"{', '.join(_SHAPES)} (with {', '.join(_SUFFIXES[1:])}), flux, mag, "
                    "flux_<band>, mag_<band>"
                )
    for name in ("ra", "dec"):
        if (name, "") not in out:
            raise InputError(
                f"{label}: no column '{name}'; found: {', '.join(names)}; map it with "
                f"peaks.columns: {{{name}: ...}}"
            )
    return out


def _flux_key(name: str) -> str:
    """ "flux_disk" stays, "mag_disk" becomes "flux:mag_disk"."""
    return "flux:mag" + name[3:] if name.startswith("mag") else name


def _split_band(name: str, bands) -> tuple[str, str | None]:
    for band in bands:
        if name.endswith("_" + band):
            return name[: -len(band) - 1], band
    return name, None


def column_of(columns: dict, name: str) -> str:
    """The column that holds a name, or "missing"."""
    return columns.get((name, ""), "missing")
