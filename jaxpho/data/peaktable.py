"""The table that peaks are read from, and whether a fit wrote it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from astropy.table import Table

from jaxpho.data.fitsread import CREATOR
from jaxpho.data.options import CatalogOptions
from jaxpho.data.tables import read_table
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.catalog")


def is_own(table: Table) -> bool:
    """Whether a fit wrote this table: its layout is plain, and each column has its unit."""
    creator = str(table.meta.get("CREATOR", "")).split(" ")[0]
    return creator == CREATOR and {"BANDS", "FLUXUNIT"} <= set(table.meta)


def own_layout(options: CatalogOptions) -> CatalogOptions:
    """Options to read a fit's catalogue with, whatever layout these name."""
    return replace(options, format="plain", columns=None, flux_unit=None)


def open_table(options: CatalogOptions) -> tuple[Table, str, CatalogOptions]:
    """The table of a catalogue file, or of the positions written in the configuration.

    Parameters
    ----------
    options : the `peaks` section.

    Returns
    -------
    table : Table
    label : names it in messages.
    options : to read it with; a fit's own catalogue is not taken for one of another format.

    Raises
    ------
    InputError
        For both or neither of file and positions, and files that are no tables.
    """
    if options.positions is not None:
        if options.file is not None:
            raise InputError("peaks: give `file` or `positions`, not both")
        return _positions_table(options.positions), "peaks.positions", options
    if options.file is None:
        raise InputError("peaks: give `file`, `positions` or `detect: true`")
    table, label = read_table(options.file), str(options.file)
    if options.format not in (None, "plain") and is_own(table):
        log.info("%s was written by jaxpho: not read as %s", label, options.format)
        options = own_layout(options)
    return table, label, options


def _positions_table(positions) -> Table:
    for k, p in enumerate(positions):
        if len(p) != 2:
            raise InputError(f"peaks.positions.{k}: expected [ra, dec], found {p}")
    ra, dec = zip(*positions, strict=True) if positions else ((), ())
    return Table({"id": np.arange(len(positions)) + 1, "ra": ra, "dec": dec})
