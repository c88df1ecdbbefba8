"""The registry of catalogue columns: name, unit, kind, meaning. Tables and docs read it."""

from __future__ import annotations

from typing import NamedTuple

from jaxpho.core.sources import AUTO_TYPES


class Column(NamedTuple):
    """One column, or one per band ({band}), per component ({part}) or per candidate ({type}).

    `unit` "flux" stands for the flux unit of the run. `kind` is "f8", "i8", "bool" or "str".
    `spread` columns get errors (`_err`) and, with samples, `_mean`, `_p16`, `_p50`, `_p84`.
    `ucd` is the kind of quantity in the words of the IVOA's UCD1+ vocabulary.
    """

    name: str
    unit: str
    kind: str
    meaning: str
    spread: bool = False
    ucd: str = ""


_UCD = {
    "id": "meta.id;meta.main",
    "ra": "pos.eq.ra;meta.main",
    "dec": "pos.eq.dec;meta.main",
    "ra_err": "stat.error;pos.eq.ra",
    "dec_err": "stat.error;pos.eq.dec",
    "radec_cov": "stat.covariance;pos.eq.ra;pos.eq.dec",
    "type": "src.class",
    "dchi2_{type}": "stat.fit.chi2;arith.diff",
    "type_margin": "stat.fit.chi2;arith.diff",
    "flux_{band}": "phot.flux.density",
    "flux_{part}_{band}": "phot.flux.density",
    "flux_cov": "stat.covariance;phot.flux.density",
    "rhalf": "phys.angSize",
    "rhalf_major": "phys.angSize.smajAxis",
    "sersic": "src.morph.param",
    "q": "phys.angSize;arith.ratio",
    "pa": "pos.posAng",
    "e1": "src.ellipticity",
    "e2": "src.ellipticity",
    "drhalf": "phys.angSize;arith.variation",
    "dsersic": "src.morph.param;arith.variation",
    "de1": "src.ellipticity;arith.variation",
    "de2": "src.ellipticity;arith.variation",
    "drhalf_{band}": "phys.angSize;arith.ratio",
    "dsersic_{band}": "src.morph.param;arith.diff",
    "de1_{band}": "src.ellipticity;arith.diff",
    "de2_{band}": "src.ellipticity;arith.diff",
    "flags": "meta.code.qual",
    "flag_names": "meta.note",
    "at_bound": "meta.note",
    "fixed": "meta.note",
    "chi2": "stat.fit.chi2",
    "p_value": "stat.probability",
    "residual_peak": "stat.fit.residual;stat.max",
    "npix": "meta.number;instr.pixel",
    "nexp": "meta.number;obs.image",
    "patch": "meta.id.part",
    "errors_from": "meta.note",
    "rhat_max": "stat.fit.goodness",
    "ess_min": "meta.number",
    "ess_bulk_min": "meta.number",
    "ess_tail_min": "meta.number",
    "divergences": "meta.number",
    "ebfmi_min": "stat.fit.goodness",
    "prior_dominated": "meta.note",
    "piled_up": "meta.note",
}
"""UCD1+ of the columns of a run's own catalogue."""


def _kinds(*columns: Column) -> tuple[Column, ...]:
    return tuple(column._replace(ucd=_UCD[column.name]) for column in columns)


IDENTITY = _kinds(
    Column("id", "", "str", "name of the source in the input catalogue"),
    Column("ra", "deg", "f8", "right ascension, ICRS"),
    Column("dec", "deg", "f8", "declination, ICRS"),
    Column("ra_err", "mas", "f8", "1 sigma of right ascension times cos(dec)"),
    Column("dec_err", "mas", "f8", "1 sigma of declination"),
    Column("radec_cov", "mas2", "f8", "covariance of RA times cos(dec) with declination"),
    Column("type", "", "str", "profile that was fitted"),
)
CHOICE = _kinds(
    Column("dchi2_{type}", "", "f8", "type auto: chi2 as {type} minus that of the chosen type"),
    Column("type_margin", "", "f8", "type auto: penalised chi2 of the second best minus the best"),
)
FLUX = _kinds(Column("flux_{band}", "flux", "f8", "total flux of all components", True))
COMPONENT_FLUX = _kinds(
    Column("flux_{part}_{band}", "flux", "f8", "flux of the {part} component", True)
)
(FLUX_COV,) = _kinds(
    Column("flux_cov", "flux2", "f8", "covariance of the total fluxes, in band order")
)
SHAPE = _kinds(
    Column("rhalf", "arcsec", "f8", "half-light radius, circularised sqrt(a b)", True),
    Column("rhalf_major", "arcsec", "f8", "half-light radius along the major axis", True),
    Column("sersic", "", "f8", "Sersic index", True),
    Column("q", "", "f8", "axis ratio b/a", True),
    Column("pa", "deg", "f8", "position angle of the major axis, East of North", True),
    Column("e1", "", "f8", "(1-q)/(1+q) cos(2 pa)", True),
    Column("e2", "", "f8", "(1-q)/(1+q) sin(2 pa)", True),
)
SLOPE = _kinds(
    Column("drhalf", "um-1", "f8", "slope of ln rhalf with wavelength (fit.links)", True),
    Column("dsersic", "um-1", "f8", "slope of the Sersic index with wavelength", True),
    Column("de1", "um-1", "f8", "slope of e1 with wavelength", True),
    Column("de2", "um-1", "f8", "slope of e2 with wavelength", True),
)
DIFFERENCE = _kinds(
    Column("drhalf_{band}", "", "f8", "ln of rhalf in the band over that of the reference", True),
    Column("dsersic_{band}", "", "f8", "Sersic index in the band minus the reference's", True),
    Column("de1_{band}", "", "f8", "e1 in the band minus that of the reference", True),
    Column("de2_{band}", "", "f8", "e2 in the band minus that of the reference", True),
)
QUALITY = _kinds(
    Column("flags", "", "i8", "bit mask of quality flags; 0 is good"),
    Column("flag_names", "", "str", "the flags that are set, by name"),
    Column("at_bound", "", "str", "parameters at the edge of their allowed range"),
    Column("fixed", "", "str", "parameters held at their input value"),
    Column("chi2", "", "f8", "sum of ((data-model)/sigma)^2 in the area of the source"),
    Column(
        "p_value",
        "",
        "f8",
        "chance of a larger chi2 there if the model is right, measured noise taken into account",
    ),
    Column(
        "residual_peak",
        "",
        "f8",
        "largest residual there smoothed by the PSF of any exposure, in its sigma, with its sign",
    ),
    Column("npix", "", "i8", "unmasked pixels in the area of the source, all exposures"),
    Column("nexp", "", "i8", "exposures with unmasked pixels in the area of the source"),
    Column("patch", "", "i8", "number of the patch in which the source was fitted"),
    Column(
        "errors_from",
        "",
        "str",
        "laplace (curvature at the maximum), samples (of the posterior), or laplace draws, svi "
        "draws (of an approximation)",
    ),
    Column("rhat_max", "", "f8", "largest rank-normalised R-hat of the source's parameters"),
    Column("ess_min", "", "f8", "the smaller one of ess_bulk_min and ess_tail_min"),
    Column("ess_bulk_min", "", "f8", "smallest bulk effective sample size of its parameters"),
    Column("ess_tail_min", "", "f8", "smallest tail effective sample size of its parameters"),
    Column("divergences", "", "i8", "divergent transitions in the patch; -1 without samples"),
    Column("ebfmi_min", "", "f8", "smallest E-BFMI of the patch's chains; below .3 is poor"),
    Column("prior_dominated", "", "str", "parameters whose error is nearly that of the prior"),
    Column("piled_up", "", "str", "parameters whose draws pile up at the edge of their range"),
)
DERIVED = (
    Column("mag_{band}", "mag", "f8", "AB magnitude of flux_{band}", True, "phot.mag"),
    Column("flux_aper{k}_{band}", "flux", "f8",
           "flux of the model, free of the PSF, within {radius:g} arcsec of the centre", True,
           "phot.flux.density"),
    Column("flux_kron_{band}", "flux", "f8",
           "flux of the model, free of the PSF, within 2.5 Kron radii of its profile", True,
           "phot.flux.density"),
    Column("sb{suffix}_{band}", "mag / arcsec2", "f8",
           "mean AB surface brightness within the half-light ellipse{which}", True, "phot.mag.sb"),
)  # fmt: skip
"""Of every band, computed from a fit after it."""
COLOR = Column("color_{band}_{next}", "mag", "f8", "mag_{band} - mag_{next}", True, "phot.color")
KRON = Column("kron{suffix}", "arcsec", "f8", "first-moment (Kron) radius{which}, circularised",
              True, "phys.angSize")  # fmt: skip
ELLIPTICITY = Column("ellipticity{suffix}", "", "f8", "1 - b/a{which}", True, "src.ellipticity")
READ_FROM = Column(
    "read_from", "", "str", "patch: from the files of the patch; catalog: they cannot be read, the "
    "row is that of the run's catalogue, without what is derived", ucd="meta.note",
)  # fmt: skip
CHAINS = (
    Column("nchain", "", "i8", "chains of the source; further ones are NaN", ucd="meta.number"),
    Column("ndraw", "", "i8", "draws of each chain; further ones are NaN", ucd="meta.number"),
)
WORTH = (
    ("_ess_bulk", "effective sample size of the bulk of {}", "meta.number"),
    ("_ess_tail", "effective sample size of the 5 % and 95 % quantiles of {}", "meta.number"),
    ("_rhat", "rank-normalised split R-hat of {}", "stat.fit.goodness"),
)
"""What the draws of a quantity are worth (Vehtari et al. 2021)."""
SPREAD = (
    ("_err", "1 sigma of {}: posterior standard deviation with samples, else Laplace"),
    ("_mean", "posterior mean of {}"),
    ("_p16", "16 % posterior quantile of {}"),
    ("_p50", "posterior median of {}"),
    ("_p84", "84 % posterior quantile of {}"),
)
_SPREAD_UCD = {
    "_err": "stat.error;{1}", "_mean": "{0};stat.mean", "_p16": "stat.param;{1}",
    "_p50": "{0};stat.median", "_p84": "stat.param;{1}",
}  # fmt: skip


def expand(bands, parts=(), shapes=("",), present=frozenset(), samples=False) -> list[Column]:
    """The columns of a catalogue.

    Parameters
    ----------
    bands : band names.
    parts : flux components ("disk", "bulge", "point") that some source has.
    shapes : shape suffixes ("", "_disk", "_bulge") that some source has.
    present : names of the columns that some row has: those of `CHOICE`, `SLOPE` and `DIFFERENCE`
        come where they are.
    samples : whether posterior columns are wanted.
    """
    out = list(IDENTITY)
    if "type_margin" in present:
        first, margin = CHOICE
        names = [(first.name.format(type=t), first.meaning.format(type=t)) for t in AUTO_TYPES]
        out += [first._replace(name=name, meaning=meaning) for name, meaning in names] + [margin]
    for column in FLUX:
        for band in bands:
            out += _spread(column._replace(name=column.name.format(band=band)), samples)
    out.append(FLUX_COV)
    for column in COMPONENT_FLUX:
        for part in parts:
            for band in bands:
                name = column.name.format(part=part, band=band)
                meaning = column.meaning.format(part=part)
                out += _spread(column._replace(name=name, meaning=meaning), samples)
    for suffix in shapes:
        for column in SHAPE:
            which = f" of the {suffix[1:]}" if suffix else ""
            named = column._replace(name=column.name + suffix, meaning=column.meaning + which)
            out += _spread(named, samples)
        for column in (*SLOPE, *DIFFERENCE):
            for band in bands if "{band}" in column.name else ("",):
                name = column.name.replace("_{band}", f"{suffix}_{band}")
                name = name if band else column.name + suffix
                if name in present:
                    out += _spread(column._replace(name=name), samples)
    return out + list(QUALITY)


def expand_derived(bands, shapes=("",), apertures=(), magnitudes=True) -> list[Column]:
    """The derived quantities of a catalogue, without their errors.

    Parameters
    ----------
    bands, shapes : as of `expand`.
    apertures : radii, arcsec.
    magnitudes : whether the flux unit has an AB magnitude.
    """
    mag, aperture, kron, brightness = DERIVED
    out = []
    for band in bands if magnitudes else ():
        out.append(_filled(mag, band=band))
    for band, following in zip(bands, bands[1:], strict=False) if magnitudes else ():
        out.append(_filled(COLOR, band=band, next=following))
    for k, radius in enumerate(apertures, start=1):
        out += [_filled(aperture, k=k, radius=radius, band=band) for band in bands]
    out += [_filled(kron, band=band) for band in bands]
    for suffix in shapes:
        names = {"suffix": suffix, "which": f" of the {suffix[1:]}" if suffix else ""}
        if magnitudes:
            out += [_filled(brightness, band=band, **names) for band in bands]
        out += [_filled(KRON, **names), _filled(ELLIPTICITY, **names)]
    return out


def _filled(column: Column, **names) -> Column:
    return column._replace(name=column.name.format(**names), meaning=column.meaning.format(**names))


def spread(columns, samples: bool, worth: bool = False) -> list[Column]:
    """Columns with their errors, quantiles (`samples`) and diagnostics of draws (`worth`)."""
    out = []
    for column in columns:
        out += _spread(column, samples)
        for end, text, ucd in WORTH if worth and column.spread else ():
            name, meaning = column.name + end, text.format(column.name)
            out.append(Column(name, "", "f8", meaning, ucd=ucd))
    return out


def worth_of_fit(bands, parts=(), shapes=("",), present=frozenset()) -> list[Column]:
    """What `expand` lacks with draws: quantiles of positions, and what draws are worth."""
    positions = [c._replace(spread=True) for c in IDENTITY if c.name in ("ra", "dec")]
    spread_out = [c for p in positions for c in _spread(p, True)[2:]]
    fitted = positions + [c for c in expand(bands, parts, shapes, present) if c.spread]
    whole = spread(fitted, samples=False, worth=True)
    endings = tuple(end for end, _, _ in WORTH)
    return spread_out + [c for c in whole if c.name.endswith(endings)]


def _spread(column: Column, samples: bool) -> list[Column]:
    if not column.spread:
        return [column]
    chosen = SPREAD if samples else SPREAD[:1]
    extra = [
        column._replace(
            name=column.name + end,
            meaning=text.format(column.name),
            spread=False,
            ucd=_SPREAD_UCD[end].format(column.ucd, column.ucd.split(";")[0]),
        )
        for end, text in chosen
    ]
    return [column, *extra]


def table() -> str:
    """The registry as a Markdown table, for the documentation."""
    lines = ["| column | unit | meaning |", "|---|---|---|"]
    shapes = (*SHAPE, *SLOPE, *DIFFERENCE)
    for column in (*IDENTITY, *CHOICE, *FLUX, FLUX_COV, *COMPONENT_FLUX, *shapes, *QUALITY):
        meaning = column.meaning.format(part="{part}", type="{type}")
        lines.append(f"| {column.name} | {column.unit} | {meaning} |")
    return "\n".join(lines)
