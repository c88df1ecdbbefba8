"""The registry of catalogue columns: name, unit, kind, meaning. Tables and docs read it."""

from __future__ import annotations

from typing import NamedTuple

from jaxpho.core.sources import AUTO_TYPES


class Column(NamedTuple):
    """One column, or one per band ({band}), per component ({part}) or per candidate ({type}).

    `unit` "flux" stands for the flux unit of the run. `kind` is "f8", "i8", "bool" or "str".
    `spread` columns get errors (`_err`) and, with samples, `_mean`, `_p16`, `_p50`, `_p84`.
    """

    name: str
    unit: str
    kind: str
    meaning: str
    spread: bool = False


IDENTITY = (
    Column("id", "", "str", "name of the source in the input catalogue"),
    Column("ra", "deg", "f8", "right ascension, ICRS"),
    Column("dec", "deg", "f8", "declination, ICRS"),
    Column("ra_err", "mas", "f8", "1 sigma of right ascension times cos(dec)"),
    Column("dec_err", "mas", "f8", "1 sigma of declination"),
    Column("radec_cov", "mas2", "f8", "covariance of RA times cos(dec) with declination"),
    Column("type", "", "str", "profile that was fitted"),
)
CHOICE = (
    Column("dchi2_{type}", "", "f8", "type auto: chi2 as {type} minus that of the chosen type"),
    Column("type_margin", "", "f8", "type auto: penalised chi2 of the second best minus the best"),
)
FLUX = (Column("flux_{band}", "flux", "f8", "total flux of all components", True),)
COMPONENT_FLUX = (Column("flux_{part}_{band}", "flux", "f8", "flux of the {part} component", True),)
FLUX_COV = Column("flux_cov", "flux2", "f8", "covariance of the total fluxes, in band order")
SHAPE = (
    Column("rhalf", "arcsec", "f8", "half-light radius, circularised sqrt(a b)", True),
    Column("rhalf_major", "arcsec", "f8", "half-light radius along the major axis", True),
    Column("sersic", "", "f8", "Sersic index", True),
    Column("q", "", "f8", "axis ratio b/a", True),
    Column("pa", "deg", "f8", "position angle of the major axis, East of North", True),
    Column("e1", "", "f8", "(1-q)/(1+q) cos(2 pa)", True),
    Column("e2", "", "f8", "(1-q)/(1+q) sin(2 pa)", True),
)
SLOPE = (
    Column("drhalf", "1 / um", "f8", "slope of ln rhalf with wavelength (fit.links)", True),
    Column("dsersic", "1 / um", "f8", "slope of the Sersic index with wavelength", True),
    Column("de1", "1 / um", "f8", "slope of e1 with wavelength", True),
    Column("de2", "1 / um", "f8", "slope of e2 with wavelength", True),
)
DIFFERENCE = (
    Column("drhalf_{band}", "", "f8", "ln of rhalf in the band over that of the reference", True),
    Column("dsersic_{band}", "", "f8", "Sersic index in the band minus the reference's", True),
    Column("de1_{band}", "", "f8", "e1 in the band minus that of the reference", True),
    Column("de2_{band}", "", "f8", "e2 in the band minus that of the reference", True),
)
QUALITY = (
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
SPREAD = (
    ("_err", "1 sigma of {}: posterior standard deviation with samples, else Laplace"),
    ("_mean", "posterior mean of {}"),
    ("_p16", "16 % posterior quantile of {}"),
    ("_p50", "posterior median of {}"),
    ("_p84", "84 % posterior quantile of {}"),
)


def expand(
    bands, parts=(), shapes=("",), samples=False, auto=False, present=frozenset()
) -> list[Column]:
    """The columns of a catalogue.

    Parameters
    ----------
    bands : band names.
    parts : flux components ("disk", "bulge", "point") that some source has.
    shapes : shape suffixes ("", "_disk", "_bulge") that some source has.
    samples : whether posterior columns are wanted.
    auto : whether the type of some source was chosen by the fit.
    present : names of the columns that some row has: those of `SLOPE` and `DIFFERENCE` come where
        they are.
    """
    out = list(IDENTITY)
    if auto:
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


def _spread(column: Column, samples: bool) -> list[Column]:
    if not column.spread:
        return [column]
    chosen = SPREAD if samples else SPREAD[:1]
    extra = [
        column._replace(name=column.name + end, meaning=text.format(column.name), spread=False)
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
