"""The HTML pages. Text from files goes through `escape`; scripts and styles are files of ours."""

from __future__ import annotations

from html import escape

SCRIPTS = ("core", "charts", "posterior", "viewer", "profile", "stamps", "patchimages")
PAGES = {
    "index": ("Summary", ("skymap", "index")),
    "catalog": ("Catalogue", ("table", "catalog")),
    "source": ("Source", ("source",)),
    "patch": ("Patch", ("patch",)),
    "psf": ("PSF", ("psf",)),
}
"""Page -> its title and the scripts of its own."""
LINKS = (("index", "Summary"), ("catalog", "Catalogue"), ("psf", "PSFs"))
# no inline scripts, nothing from elsewhere; "file:" is what 'self' means for pages on a disk
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; "
    "img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
)


def page(name: str, run: str, body: str, data=("run",)) -> str:
    """One page.

    Parameters
    ----------
    name : of `PAGES`.
    run : name of the run, any text.
    body : HTML of the main part, already escaped.
    data : scripts of the folder `data` that it begins with.
    """
    title, own = PAGES[name]
    links = "".join(
        f'<a href="{n}.html"{" aria-current=" + chr(34) + "page" + chr(34) if n == name else ""}>'
        f"{text}</a>"
        for n, text in LINKS
    )
    files = [f"assets/{s}.js" for s in (*SCRIPTS,)]
    files += [f"data/{d}.js" for d in data] + [f"assets/{s}.js" for s in own]
    scripts = "\n".join(f'<script src="{file}" defer></script>' for file in files)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="jaxpho">
<meta name="color-scheme" content="light dark">
<title>{title} - {escape(run)}</title>
<link rel="stylesheet" href="assets/style.css">
<link rel="icon" href="data:,">
{scripts}
</head>
<body data-page="{name}">
<a class="skip" href="#main">Skip to the content</a>
<header>
<a class="brand" href="index.html">jaxpho</a>
<span class="run" title="run directory">{escape(run)}</span>
<nav aria-label="Report">{links}</nav>
</header>
<main id="main" tabindex="-1">
<noscript><p class="notice">These pages need JavaScript; the tables of the summary do not.</p>
</noscript>
<div id="problem" role="alert"></div>
{body}
</main>
</body>
</html>
"""


def facts(rows) -> str:
    """A list of names and values."""
    items = "".join(
        f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>"
        for name, value in rows
    )
    return f'<dl class="facts">{items}</dl>'


def table(caption: str, head, rows, numbers=()) -> str:
    """A table of text; `numbers` are the indices of columns that are set flush right."""
    cells = "".join(
        f'<th scope="col"{_right(k, numbers)}>{escape(str(text))}</th>'
        for k, text in enumerate(head)
    )
    lines = []
    for row in rows:
        made = (f"<td{_right(k, numbers)}>{_cell(cell)}</td>" for k, cell in enumerate(row))
        lines.append(f"<tr>{''.join(made)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value) -> str:
    return value if isinstance(value, Markup) else escape(str(value))


class Markup(str):
    """HTML of our own, which is not escaped again."""


def link(href: str, text) -> Markup:
    """A link within the report; `text` is escaped."""
    return Markup(f'<a href="{escape(href)}">{escape(str(text))}</a>')


def section(title: str, content: str, identifier: str = "") -> str:
    """A part of a page under a heading; `content` is HTML."""
    name = f' id="{identifier}"' if identifier else ""
    return f"<section{name}><h2>{escape(title)}</h2>{content}</section>"


def folded(title: str, text: str) -> str:
    """Plain text that opens on demand."""
    return (
        f"<details><summary>{escape(title)}</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def _right(k: int, numbers) -> str:
    return ' class="number"' if k in numbers else ""
