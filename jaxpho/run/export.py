"""`jaxpho export`: from a run directory to catalogues, chains, regions, images and cutouts."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.export")

WHAT = {
    "catalogue": "final catalogues of the optimum and of the draws (FITS, ECSV)",
    "samples": "table of the chains of every source (FITS, ECSV)",
    "regions": "region files of sources and patches for DS9 and CARTA",
    "images": "data, model, residual, chi of every exposure at its own pixels (FITS)",
    "mosaics": "mean of the exposures of each band; makes images, too",
    "cutouts": "data, model, residual, chi around sources (FITS); makes images, too",
    "arviz": "draws of each patch as ArviZ InferenceData (NetCDF)",
}
DEFAULT = ("catalogue", "samples")
DESCRIPTION = """\
Make products of a run directory, finished, running or killed: nothing is fitted, and nothing in the
run directory changes except its folder `export`. Fluxes are in the unit of the run (nJy unless it
says otherwise), angles in degrees, sizes in arcsec.
"""
EPILOG = """\
exit status: 0 everything written; 1 files of some patches could not be read (named in the log, the
rest is there); 2 wrong input; 70 internal error; 130 interrupted

examples:
  jaxpho export run                                  catalogues and chains, in run/export
  jaxpho export run --what regions,images            region files and residual images, too
  jaxpho export run --what cutouts --ids 17,23 --size 6
  jaxpho export run --columns desi.yml --outdir out  columns of your own choice and names
"""


def add_arguments(parser) -> None:
    """The arguments after the run directory."""
    lines = "; ".join(f"{name}: {text}" for name, text in WHAT.items())
    parser.add_argument(
        "--what", metavar="A,B", default=",".join(DEFAULT),
        help=f"products, separated by commas, or all. {lines}. Default: {','.join(DEFAULT)}",
    )  # fmt: skip
    parser.add_argument("--outdir", metavar="DIR", help="folder to write; default: RUN/export")
    parser.add_argument(
        "--formats", default="fits,ecsv", metavar="A,B", help="of tables: fits, ecsv (default both)"
    )
    parser.add_argument(
        "--columns", metavar="MAP.yml", help="which columns the catalogues have, under which names "
        "and units; docs/export.md shows one",
    )  # fmt: skip
    parser.add_argument(
        "--apertures", metavar="R1,R2", help="radii of circular apertures [arcsec], of the model "
        "free of the PSF, or none; default: 0.5,1.0,1.5",
    )  # fmt: skip
    parser.add_argument(
        "--thin",
        type=int,
        default=1,
        metavar="N",
        help="keep every Nth draw in the table of chains",
    )
    parser.add_argument(
        "--scale", type=float, metavar="S", help="pixel of mosaics [arcsec]; default: the finest "
        "exposure's",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=float, metavar="S", help="side of cutouts [arcsec]; default: 8 half-light "
        "radii along the major axis, 3 to 30 arcsec",
    )  # fmt: skip
    parser.add_argument("--ids", metavar="A,B", help="sources of cutouts; default: all")
    parser.add_argument("--overwrite", action="store_true", help="replace files of an export")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be written, write nothing"
    )


@dataclass
class Job:
    """The arguments, checked.

    Attributes
    ----------
    run : RunFiles
    folder : where files go.
    wanted : products.
    formats : endings of tables.
    apertures : radii, arcsec.
    columns : new name -> `columnmap.Mapped`, or None.
    tables, sources : what has been made; the optimum's catalogue under our own names.
    written : file or folder -> what it holds, for the README.
    """

    run: object
    folder: Path
    wanted: list[str]
    formats: list[str]
    apertures: tuple[float, ...]
    args: object
    columns: dict | None = None
    tables: dict = field(default_factory=dict)
    sources: object = None
    images: object = None
    written: dict[str, str] = field(default_factory=dict)

    def bar(self, text: str, total: int | None = None) -> Callable:
        """Wraps an iterable in a progress bar."""
        from tqdm import tqdm

        hidden = self.args.quiet or not sys.stderr.isatty()

        def wrap(items):
            count = total if total is not None else len(items)
            return tqdm(items, desc=text, total=count, disable=hidden)

        return wrap


def run(args) -> int:
    """Carry out the command; returns the exit code."""
    from jaxpho.run import exportimages

    job = prepare(args)
    found = job.run
    if args.dry_run:
        print(describe(job))
        return 0
    _refuse_existing(job)
    wanted = set(job.wanted)
    if {"catalogue", "samples", "regions", "cutouts"} & wanted:
        _tables(job)
    if "regions" in wanted:
        _regions(job)
    if "images" in wanted:
        exportimages.write_images(job)
    if "mosaics" in wanted:
        exportimages.write_mosaics(job)
    if "cutouts" in wanted:
        exportimages.write_cutouts(job)
    if "arviz" in wanted:
        exportimages.write_arviz(job)
    _readme(job)
    if found.bad:
        log.warning("%d files could not be read: their part is missing", len(found.bad))
    log.info("wrote %s to %s", ", ".join(job.written) or "nothing", job.folder)
    return 1 if found.bad else 0


def prepare(args) -> Job:
    """Check the arguments and look at the run directory.

    Raises
    ------
    InputError
        For a run directory, product, format, aperture or column map that cannot be used.
    """
    from jaxpho.output.final import APERTURES
    from jaxpho.output.runfiles import open_run
    from jaxpho.output.tablefiles import FORMATS

    wanted = list(WHAT) if args.what == "all" else _choice(args.what, WHAT, "--what")
    formats = [FORMATS[name] for name in _choice(args.formats, FORMATS, "--formats")]
    if args.thin < 1:
        raise InputError(f"--thin {args.thin}: expected a number of draws, at least 1")
    apertures = APERTURES if args.apertures is None else _radii(args.apertures)
    _check_packages(wanted)
    for name in ("scale", "size"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name} {value:g}: expected arcsec, more than 0")
    columns = None
    if args.columns is not None:
        from jaxpho.config import read_yaml
        from jaxpho.output.columnmap import parse_map

        columns = parse_map(read_yaml(args.columns), Path(args.columns).name)
    found = open_run(args.run)
    folder = Path(args.outdir) if args.outdir else found.folder / "export"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--outdir {folder}: this is a file, expected a folder")
    if folder.resolve() == found.folder.resolve():
        raise InputError(f"--outdir {folder}: this is the run directory itself; give another one")
    if {"mosaics", "cutouts"} & set(wanted) and "images" not in wanted:
        if not any((folder / "images").glob("*.fits")):
            wanted = [name for name in WHAT if name in {*wanted, "images"}]
    return Job(found, folder, wanted, formats, apertures, args, columns)


def _check_packages(wanted: list[str]) -> None:
    """Raise, before any work, where an optional package is not installed."""
    if "regions" in wanted:
        from jaxpho.output.skyfiles import check_regions

        check_regions("--what regions")
    if "mosaics" in wanted:
        from jaxpho.output.mosaic import check_reproject

        check_reproject("--what mosaics")
    if "arviz" in wanted:
        from jaxpho.inference_data import check_arviz

        check_arviz("--what arviz")


def _choice(text: str, allowed, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise InputError(f"{option}: unknown '{name}', expected some of {', '.join(allowed)}")
    if not names:
        raise InputError(f"{option}: expected some of {', '.join(allowed)}, found none")
    return [name for name in allowed if name in names]


def _radii(text: str) -> tuple[float, ...]:
    if text == "none":
        return ()
    try:
        radii = tuple(float(part) for part in text.split(","))
    except ValueError:
        radii = (float("nan"),)
    if not all(0 < radius < float("inf") for radius in radii):
        raise InputError(f"--apertures {text}: expected radii > 0 in arcsec, as in 0.5,1.0")
    return radii


def _patterns(job: Job) -> dict[str, list[str]]:
    """Product -> the files that it writes."""
    from jaxpho.output import final

    ends = job.formats
    return {
        "catalogue": [name + e for name in (final.OPTIMUM, final.SAMPLED) for e in ends],
        "samples": [final.CHAINS + e for e in ends],
        "regions": [f"{n}{e}" for n in ("sources", "patches") for e in (".reg", ".crtf")],
        "images": ["images/*.fits"],
        "mosaics": ["mosaics/*.fits"],
        "cutouts": ["cutouts/*.fits"],
        "arviz": ["arviz/*_posterior.nc"],
    }


def describe(job: Job) -> str:
    """What would be done, in words."""
    found, patterns = job.run, _patterns(job)
    sources = "no" if found.catalog is None else str(len(found.catalog))
    lines = [
        f"run directory: {found.folder}: {len(found.samples)} patches with parameters, "
        f"{len(found.residuals)} with pixels, {sources} sources in its catalogue",
        f"folder: {job.folder}",
    ]
    for name in job.wanted:
        lines.append(f"{name}: {', '.join(patterns[name])}")
    existing = _existing(job)
    if existing and not job.args.overwrite:
        lines.append(f"the export itself would stop: {existing[0]} exists; give --overwrite")
    return "\n".join(lines)


def _existing(job: Job) -> list[Path]:
    patterns = _patterns(job)
    return sorted(
        path for name in job.wanted for p in patterns[name] for path in job.folder.glob(p)
    )


def _refuse_existing(job: Job) -> None:
    """Raise where files are in the way; with --overwrite tables that may not come again go."""
    from jaxpho.output import final

    existing = _existing(job)
    if existing and not job.args.overwrite:
        raise InputError(f"{existing[0]} exists; give --overwrite, or another --outdir")
    stale = {name + end for name in (final.SAMPLED, final.CHAINS) for end in job.formats}
    for path in existing:
        if path.name in stale:
            with contextlib.suppress(OSError):
                path.unlink()


TITLES = {
    "catalog_optimum": "values at the maximum of the posterior, Laplace errors, flux covariance",
    "catalog_samples": "values, and mean, standard deviation, quantiles and diagnostics of draws",
    "chains": "the draws of every source, [chain, draw]",
}


def _tables(job: Job) -> None:
    from jaxpho.output import final
    from jaxpho.output.tablefiles import write_table

    catalogs, chains = (name in job.wanted for name in ("catalogue", "samples"))
    job.run.targets = _targets(job)
    tables = final.FinalTables(
        job.run,
        job.apertures,
        job.args.thin,
        bool({"catalogue", "regions", "cutouts"} & set(job.wanted)),
        chains,
        _wavelengths(job),
    )
    final.collect(job.run, tables, job.bar("patches", len(job.run.samples)))
    job.tables = tables.tables()
    if chains and final.CHAINS not in job.tables:
        log.warning("no patch has draws (sample.method: none): no table of chains")
    job.sources = job.tables.get(final.OPTIMUM)
    if job.columns is not None and catalogs:
        _choose(job)
    for name, table in job.tables.items():
        if not (chains if name == final.CHAINS else catalogs):
            continue
        for end in job.formats:
            write_table(job.folder / (name + end), table)
            job.written[name + end] = TITLES[name]
        log.info("%s: %d sources, %d columns", name, len(table), len(table.colnames))


def _section(job: Job, name: str) -> dict:
    """A section of the run's configuration; empty where it cannot be read."""
    from jaxpho.config import read_yaml

    path = job.run.folder / "config.yml"
    values = job.run.attempt(path, read_yaml) if path.is_file() else None
    found = (values or {}).get(name)
    return found if isinstance(found, dict) else {}


def _wavelengths(job: Job) -> dict[str, float]:
    """`fit.wavelengths` of the run: band -> micron; empty where it cannot be read."""
    found = _section(job, "fit").get("wavelengths")
    if not isinstance(found, dict):
        return {}
    return {str(k): float(v) for k, v in found.items() if isinstance(v, int | float)}


def _targets(job: Job) -> dict[str, float]:
    """`sample.min_ess` and `sample.max_rhat` of the run."""
    from jaxpho.fit.options import SampleOptions

    found, known = _section(job, "sample"), SampleOptions()
    values = {k: found.get(k, getattr(known, k)) for k in ("min_ess", "max_rhat")}
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float)}


def _choose(job: Job) -> None:
    """Apply the map to the catalogues that have its columns, and leave out the other one."""
    from jaxpho.output import final
    from jaxpho.output.columnmap import apply_map

    where, wanted = Path(job.args.columns).name, {m.column for m in job.columns.values()}
    both = [name for name in (final.OPTIMUM, final.SAMPLED) if name in job.tables]
    # the last one has the most columns: what it lacks is an error
    for name in both:
        if name != both[-1] and not wanted <= set(job.tables[name].colnames):
            log.warning("%s is not written: %s asks for columns of draws", name, where)
            del job.tables[name]
            continue
        job.tables[name] = apply_map(job.tables[name], job.columns, where)


def _regions(job: Job) -> None:
    from jaxpho.output.patchmap import patch_circles
    from jaxpho.output.skyfiles import FORMATS, patch_regions, source_regions, write_regions

    circles = patch_circles(job.run, job.bar("circles"))
    kinds = {"sources": source_regions(job.sources), "patches": patch_regions(circles)}
    for name, found in kinds.items():
        for end, program in FORMATS.items():
            write_regions(job.folder / (name + end), found)
            viewer = "DS9" if program == "ds9" else "CARTA"
            job.written[name + end] = f"{name} for {viewer}: {len(found)} regions"


def _readme(job: Job) -> None:
    from jaxpho.output.tablefiles import README, readme, write_readme

    tables = {n: (TITLES[n], t) for n, t in job.tables.items()
              if any(n + end in job.written for end in job.formats)}  # fmt: skip
    others = {k: v for k, v in job.written.items() if Path(k).stem not in tables}
    write_readme(job.folder / README, readme(tables, others))
