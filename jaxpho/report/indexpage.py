"""The first page, readable without scripts: what a run was given and what came of it."""

from __future__ import annotations

import numpy as np

from jaxpho.report.html import facts, folded, link, section, table
from jaxpho.report.summary import duration, flag_rows, versions

SLOWEST = 10


def index_body(found) -> str:
    """HTML of the summary.

    Parameters
    ----------
    found : jaxpho.report.write.Findings
    """
    parts = [f"<h1>{_title(found)}</h1>", facts(_numbers(found))]
    if found.notes:
        parts += [f'<p class="notice">{_escape(text)}</p>' for text in found.notes]
    parts.append(
        '<div class="columns">'
        + section("Sky", '<div id="sky" class="sky"></div>', "sky-section")
        + section("Flags", _flags(found), "flags")
        + "</div>"
    )
    parts.append(section("Sources", '<div id="population" class="charts"></div>', "population-s"))
    parts.append(section("Exposures", _exposures(found), "exposures"))
    parts.append(section("Patches", _patches(found), "patches"))
    parts.append(section("Warnings of the run", _troubles(found), "warnings"))
    parts.append(section("How it was made", _made(found), "made"))
    return "\n".join(parts)


def _escape(text: str) -> str:
    from html import escape

    return escape(str(text))


def _title(found) -> str:
    return f"Run {_escape(found.name)}"


def _numbers(found) -> list[tuple]:
    table = found.table
    clean = int(np.sum(np.asarray(table["flags"]) == 0)) if "flags" in table.colnames else 0
    rows = [
        ("sources", f"{len(table)}"),
        ("without flags", f"{clean}"),
        ("patches", f"{len(found.patches)}"),
        ("exposures", f"{len(found.chi2)}"),
        ("bands", ", ".join(found.bands)),
        ("flux unit", found.unit or "that of the images"),
        ("errors from", found.errors_from),
        ("time", duration(found.log.seconds)),
    ]
    chi2 = sum(c for c, _ in found.chi2.values())
    npix = sum(n for _, n in found.chi2.values())
    if npix:
        rows.append(("chi2 / pixels", f"{chi2 / npix:.3f}"))
    return rows


def _flags(found) -> str:
    rows = flag_rows(found.table["flags"]) if "flags" in found.table.colnames else []
    if not rows:
        return "<p>No source has a flag.</p>"
    lines = [(link(f"catalog.html#flag={name}", name), n, text) for name, n, text in rows]
    return table("Quality flags", ("flag", "sources", "meaning"), lines, (1,))


def _exposures(found) -> str:
    noise = {} if found.noise is None else {str(r["exposure"]): r for r in found.noise}
    lines = []
    for name, (chi2, npix) in found.chi2.items():
        row, psf = noise.get(name), found.psf_of.get(name)
        ratio = f"{chi2 / npix:.3f}" if npix else ""
        cells = [name, found.band_of.get(name, ""), npix, ratio]
        for key in ("noise", "inflation", "noise_factor"):
            cells.append(_number(row, key))
        cells.append("" if psf is None else link(f"psf.html#{psf}", f"{found.fwhm[psf]:.2f}"))
        lines.append(cells)
    head = ("exposure", "band", "pixels fitted", "chi2 / pixels", "noise / errors", "inflation",
            "correlation factor", "PSF FWHM [pixel]")  # fmt: skip
    return table("Exposures", head, lines, (2, 3, 4, 5, 6, 7))


def _number(row, key: str) -> str:
    if row is None or key not in row.colnames or not np.isfinite(float(row[key])):
        return ""
    return f"{float(row[key]):.3f}"


def _patches(found) -> str:
    order = sorted(found.patches, key=lambda p: -p["seconds"])
    shown = order if len(order) <= 2 * SLOWEST else order[:SLOWEST]
    lines = [
        (link(f"patch.html#{p['id']}", f"patch {p['id']}"), p["sources"], p["npix"],
         f"{p['chi2'] / p['npix']:.3f}" if p["npix"] else "", duration(p["seconds"]))
        for p in shown
    ]  # fmt: skip
    head = ("patch", "sources", "pixels", "chi2 / pixels", "time")
    caption = "Patches, the slowest first"
    if len(shown) < len(order):
        caption = f"The slowest {len(shown)} of {len(order)} patches (all are on the map)"
    return table(caption, head, lines, (1, 2, 3, 4))


def _troubles(found) -> str:
    lines = [(time, level, text) for time, level, text in found.log.troubles]
    lines += [("", "report", text) for text in found.bad]
    if not lines:
        return "<p>None.</p>"
    text = f"<p>{found.log.hidden} earlier ones are in run.log.</p>" if found.log.hidden else ""
    return text + table("Warnings and errors", ("time", "kind", "message"), lines)


def _made(found) -> str:
    rows = [("fitted by", found.creator), ("report by", f"jaxpho {found.version}")]
    rows += [("begun", found.log.first), ("ended", found.log.last)]
    rows += [(name, text) for name, text in found.facts]
    content = facts([(n, v) for n, v in rows if v])
    content += folded("Versions on the machine that wrote the report",
                      "\n".join(f"{name} {text}" for name, text in versions()))  # fmt: skip
    stages = sorted(found.stages.items(), key=lambda item: -item[1])
    if stages:
        lines = "\n".join(f"{name:24s} {duration(s):>10s}" for name, s in stages)
        content += folded("Time by stage, all patches together", lines)
    if found.config:
        content += folded("Configuration", found.config)
    return content
