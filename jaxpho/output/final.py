"""The final catalogues and the table of chains of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from astropy.table import Column, Table

from jaxpho.errors import InputError
from jaxpho.fit import flags
from jaxpho.fit.result import PatchResult
from jaxpho.output import columns as registry
from jaxpho.output.catalog import components_of, make_table
from jaxpho.output.derived import SourceView
from jaxpho.output.finalrows import ENDINGS, chain_row, optimum_rows, sampled_rows
from jaxpho.output.photometry import magnitude_factor
from jaxpho.output.runfiles import RunFiles

log = logging.getLogger("jaxpho.export")

OPTIMUM, SAMPLED, CHAINS = "catalog_optimum", "catalog_samples", "chains"
APERTURES = (0.5, 1.0, 1.5)
"""Radii of circular apertures, arcsec."""


@dataclass
class FinalTables:
    """Collects the rows of a run, patch by patch.

    Parameters
    ----------
    run : RunFiles
    apertures : radii, arcsec.
    thin : of the draws of a chain every so many are kept in the table of chains.
    catalogs, chains : which are wanted.
    wavelengths : band -> micron, of `fit.wavelengths`; where the fit has links linear in
        wavelength, and the name of the band does not tell.
    """

    run: RunFiles
    apertures: Sequence[float] = APERTURES
    thin: int = 1
    catalogs: bool = True
    chains: bool = True
    wavelengths: Mapping[str, float] = field(default_factory=dict)
    bands: list[str] = field(default_factory=list)
    unit: str = ""
    rows: dict[str, dict[str, dict]] = field(
        default_factory=lambda: {OPTIMUM: {}, SAMPLED: {}, CHAINS: {}}
    )

    def add(self, result: PatchResult) -> None:
        """Enter the sources that a patch has fitted."""
        if not self.bands:
            self.bands, self.unit = list(result.bands), result.unit
        if (self.bands, self.unit) != (list(result.bands), result.unit):
            raise InputError(
                f"patch {result.patch_id} has bands {', '.join(result.bands)} in {result.unit}, "
                f"others have {', '.join(self.bands)} in {self.unit}: not of one run"
            )
        own = self.run.owned(result)
        drawn = result.samples is not None
        made = {}
        if self.catalogs:
            made[OPTIMUM] = optimum_rows(result, self.apertures, self.wavelengths)
            if drawn:
                made[SAMPLED] = sampled_rows(result, self.apertures, self.wavelengths)
        if self.chains and drawn:
            made[CHAINS] = [
                chain_row(SourceView(result, s), self.apertures, self.thin, self.wavelengths)
                if s in own else {} for s in range(len(result.source_ids))
            ]  # fmt: skip
        for kind, rows in made.items():
            for s in own:
                row = self.rows[kind][str(result.source_ids[s])] = rows[s]
                if kind != CHAINS:  # what befell a source after this patch
                    row["flags"] |= self.run.flags(result.source_ids[s])
                    row["flag_names"] = ",".join(flags.decode(row["flags"]))

    def tables(self) -> dict[str, Table]:
        """Name -> table: the optimum; where there are draws, their catalogue and the chains.

        Rows are in the order of the run's catalogue, those it has besides (not fitted, or in
        patches that cannot be read) with what it says of them.
        """
        catalog = self.run.catalog
        if not self.bands and catalog is not None:
            self.bands = [b for b in str(catalog.meta.get("BANDS", "")).split(",") if b]
            self.unit = str(catalog.meta.get("FLUXUNIT", ""))
        if not self.bands:
            raise InputError(f"{self.run.folder}: no patch can be read, and there is no catalogue")
        out = {}
        if self.catalogs:
            out[OPTIMUM] = self._catalog(OPTIMUM)
            if self.rows[SAMPLED]:
                out[SAMPLED] = self._catalog(SAMPLED)
        if self.chains and self.rows[CHAINS]:
            out[CHAINS] = self._chains()
        return out

    def _catalog(self, kind: str) -> Table:
        sampled = kind == SAMPLED
        fitted = self.rows[kind]
        if sampled:  # a patch whose sampling failed has its Laplace errors
            fitted = self.rows[OPTIMUM] | fitted
        rows = dict(fitted)
        if self.run.catalog is not None:
            base = {row["id"]: row for row in _catalog_rows(self.run.catalog, sampled)}
            rows = {k: fitted.get(k) or v for k, v in base.items()} | fitted
        rows = list(rows.values())
        parts, shapes, present = components_of(rows, self.bands)
        columns = registry.expand(self.bands, parts, shapes, present, sampled)
        derived = registry.expand_derived(
            self.bands, shapes, self.apertures, magnitude_factor(self.unit) is not None
        )
        columns += registry.spread(derived, sampled, worth=sampled)
        if sampled:
            columns += registry.worth_of_fit(self.bands, parts, shapes, present)
        columns.append(registry.READ_FROM)
        return make_table(rows, self.bands, self.unit, self._meta(), columns)

    def _meta(self) -> dict:
        known = {} if self.run.catalog is None else self.run.catalog.meta
        meta = {k: known[k] for k in ("CREATOR", "SERSIC", "SEED") if k in known}
        meta |= {f"APER{k}": float(r) for k, r in enumerate(self.apertures, start=1)}
        return {"CREATOR": "jaxpho"} | meta

    def _chains(self) -> Table:
        rows = list(self._ordered(self.rows[CHAINS]))
        nchain, ndraw = (max(row[key] for row in rows) for key in ("nchain", "ndraw"))
        parts, shapes, drawn = components_of(rows, self.bands)
        identity = [c for c in registry.IDENTITY if c.name in ("id", "type")]
        patch = [c for c in registry.QUALITY if c.name == "patch"]
        table = make_table(
            rows, self.bands, self.unit, self._meta(), [*identity, *patch, *registry.CHAINS]
        )
        derived = registry.expand_derived(
            self.bands, shapes, self.apertures, magnitude_factor(self.unit) is not None
        )
        known = [*registry.expand(self.bands, parts, shapes, drawn), *derived]
        wanted = [c for c in known if c.name in drawn and c.name not in table.colnames]
        units = make_table([], self.bands, self.unit, None, wanted)
        for column in wanted:
            # positions need double precision
            kind = np.float64 if column.name in ("ra", "dec") else np.float32
            values = np.full((len(rows), nchain, ndraw), np.nan, kind)
            for i, row in enumerate(rows):
                if column.name in row:
                    draws = row[column.name]
                    values[i, : draws.shape[0], : draws.shape[1]] = draws
            table[column.name] = Column(
                values,
                unit=units[column.name].unit,
                description=f"draws [chain, draw]: {column.meaning}",
                meta={"ucd": column.ucd},
            )
        return table

    def _ordered(self, rows: dict[str, dict]) -> Iterable[dict]:
        if self.run.catalog is None:
            return rows.values()
        order = {str(name): i for i, name in enumerate(self.run.catalog["id"])}
        return [rows[k] for k in sorted(rows, key=lambda k: order.get(k, len(order)))]


_DRAWN = ("flux_cov", "radec_cov", "errors_from", "rhat_max", "ess_min", "ess_bulk_min",
          "ess_tail_min", "divergences", "ebfmi_min", "prior_dominated", "piled_up")  # fmt: skip
"""Columns of a run's catalogue that come from draws where there are any."""


def _catalog_rows(catalog: Table, sampled: bool) -> list[dict]:
    """Rows of the run's catalogue; of errors of draws, the optimum's catalogue takes none."""
    out = []
    for line in catalog:
        row = {name: line[name] for name in catalog.colnames}
        if not sampled and row.get("errors_from", "") not in ("", "laplace"):
            row = {k: v for k, v in row.items() if k not in _DRAWN and not k.endswith(ENDINGS)}
        row["id"], row["read_from"] = str(row["id"]), "catalog"
        out.append(row)
    return out


def collect(run: RunFiles, tables: FinalTables, progress=iter) -> None:
    """Enter all patches of a run; one that cannot be used is logged and left out.

    Parameters
    ----------
    run, tables : what is read, and where it goes.
    progress : wraps the iterator over the patches.
    """
    for path, result in progress(run.sources()):
        run.attempt(path, lambda _, found=result: tables.add(found) or True)
