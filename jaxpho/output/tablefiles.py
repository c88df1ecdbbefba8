"""Final tables as files, and the README that explains their columns."""

from __future__ import annotations

from pathlib import Path

from astropy.table import Table

from jaxpho.errors import InputError
from jaxpho.files import replacing
from jaxpho.fit import flags
from jaxpho.output.catalog import write_catalog

FORMATS = {"fits": ".fits", "ecsv": ".ecsv"}
FITS_COLUMNS = 999
"""The most that the FITS standard allows in a table."""
README = "README.md"


def write_table(path, table: Table) -> None:
    """Write a table as FITS or ECSV, by the ending, in one step.

    Raises
    ------
    InputError
        For more columns than FITS can hold.
    """
    path = Path(path)
    if path.suffix == FORMATS["ecsv"]:
        with replacing(path) as temporary:
            table.write(temporary, format="ascii.ecsv", overwrite=True)
        return
    if len(table.colnames) > FITS_COLUMNS:
        raise InputError(
            f"{path}: {len(table.colnames)} columns, FITS tables hold at most {FITS_COLUMNS}; "
            "choose some with --columns, or write --formats ecsv"
        )
    write_catalog(path, table)


def readme(tables: dict[str, tuple[str, Table]], others: dict[str, str]) -> str:
    """Text on every file and column, in Markdown.

    Parameters
    ----------
    tables : file stem -> (what it holds, table).
    others : further file or folder -> what it holds.
    """
    lines = ["# What was exported", "", "| file | content |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, (text, _) in tables.items()]
    lines += [f"| `{name}` | {text} |" for name, text in others.items()]
    for name, (_, table) in tables.items():
        lines += ["", f"## {name}", "", f"{len(table)} rows.", ""]
        lines += ["| column | unit | UCD | meaning |", "|---|---|---|---|"]
        for key in table.colnames:
            column = table[key]
            unit = "" if column.unit is None else column.unit.to_string()
            ucd = column.meta.get("ucd", "")
            lines.append(f"| {key} | {unit} | {ucd} | {_escaped(column.description or '')} |")
    if tables:
        lines += ["", "## Flags", "", "`flags` is the sum of the values below.", "", flags.table()]
    return "\n".join(lines) + "\n"


def write_readme(path, text: str) -> None:
    """Write the text, in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
