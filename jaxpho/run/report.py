"""`jaxpho report`: a run as a folder of HTML pages."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.report")

DESCRIPTION = """\
Write a report of a run directory, finished, running or killed, as a folder of HTML pages: summary,
map, catalogue, and for every source and patch data, model, residuals, profiles and posteriors.
The pages need a browser but neither network nor server. Nothing in the run directory changes
except its folder `report`. Fluxes are in the unit of the run, angles in degrees, sizes in arcsec.
"""
EPILOG = """\
exit status: 0 everything written; 1 files of some patches could not be read (named in the log and
in the report, the rest is there); 2 wrong input; 70 internal error; 130 interrupted

examples:
  jaxpho report run                        pages in run/report: open index.html
  jaxpho report run --truth truth.ecsv     mark true values, compare fluxes
  jaxpho report run --outdir /web/run --overwrite
"""


def add_arguments(parser) -> None:
    """The arguments after the run directory."""
    parser.add_argument("--outdir", metavar="DIR", help="folder to write; default: RUN/report")
    parser.add_argument(
        "--exposures", type=int, default=2, metavar="N",
        help="exposures of each patch shown per band, those with most pixels (default 2)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=float, default=200.0, metavar="MB", help="largest size of the report [MB]: "
        "in large runs pixels are binned and draws thinned to stay below (default 200)",
    )  # fmt: skip
    parser.add_argument(
        "--truth", metavar="TABLE", help="table of true values of simulated sources: id and "
        "columns named as the catalogue's (ra and dec in deg)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be written, write nothing"
    )


def run(args) -> int:
    """Carry out the command; returns the exit code."""
    from tqdm import tqdm

    from jaxpho.output.runfiles import open_run
    from jaxpho.report.write import check_folder, plan, write_report

    if args.exposures < 1:
        raise InputError(f"--exposures {args.exposures}: expected a number, at least 1")
    if not 0 < args.size < float("inf"):
        raise InputError(f"--size {args.size:g}: expected MB, more than 0")
    found = open_run(args.run)
    folder = Path(args.outdir) if args.outdir else found.folder / "report"
    if folder.resolve() == found.folder.resolve():
        raise InputError(f"--outdir {folder}: this is the run directory itself; give another one")
    check_folder(folder, args.overwrite or args.dry_run)
    inputs = gather(found, args.truth)
    if args.dry_run:
        bin, draws = plan(found, inputs.table, args.exposures, 1e6 * args.size)
        print(
            f"{folder}: {len(inputs.table)} sources, {len(found.samples)} patches, "
            f"{len(inputs.psfs)} PSFs; pixels in squares of {bin}, up to {draws} draws per source"
        )
        return 0
    hidden = args.quiet or not sys.stderr.isatty()

    def bar(items):
        return tqdm(items, desc="report", unit="patch", disable=hidden)

    made = write_report(folder, inputs, args.exposures, 1e6 * args.size, bar)
    if found.bad:
        log.warning("%d files could not be read: their part is missing", len(found.bad))
    log.info("wrote %d files, %.1f MB: open %s", made["files"], made["bytes"] / 1e6,
             folder / "index.html")  # fmt: skip
    return 1 if found.bad else 0


def gather(found, truth: str | None = None):
    """Read what a report needs besides the files of patches.

    Parameters
    ----------
    found : RunFiles
    truth : path of a table, optional.

    Returns
    -------
    ReportInputs
        Without PSFs where the inputs of the run are gone; a note says so.

    Raises
    ------
    InputError
        For a table of truth that cannot be used, or a run with nothing to show.
    """
    from jaxpho.report.write import ReportInputs
    from jaxpho.run.version import version

    path = found.folder / "config.yml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    inputs = ReportInputs(found, _catalog(found), config=text, version=version())
    inputs.truth = None if truth is None else _truth(truth)
    try:
        with _warnings_only():
            inputs.psfs = _psfs(found.folder, path)
    except (InputError, OSError) as error:
        log.warning("PSFs left out: %s", error)
        inputs.notes.append(f"The PSFs of the run are not shown: {error}")
    return inputs


def _catalog(found):
    """The catalogue of the run, or one put together from the patches of a killed run."""
    if found.catalog is not None:
        return found.catalog
    from jaxpho.output.catalog import make_table, rows_of_patch

    rows, first = [], None
    for _, result in found.results():
        first = first or result
        made = rows_of_patch(result)
        rows += [made[s] for s in found.owned(result)]
    if first is None:
        raise InputError(f"{found.folder}: no patch can be read, and there is no catalogue")
    return make_table(rows, first.bands, first.unit)


def _truth(path: str):
    from jaxpho.data.tables import read_table

    if not Path(path).is_file():
        raise InputError(f"--truth {path}: the file does not exist")
    table = read_table(path)
    if "id" not in table.colnames:
        raise InputError(f"--truth {path}: no column 'id', found {', '.join(table.colnames[:8])}")
    return table


_READERS = ("ingest", "units", "sky", "wcs", "psfex", "catalog", "detect")


@contextlib.contextmanager
def _warnings_only():
    """What reading the inputs tells stands in the log of the run."""
    loggers = [logging.getLogger(f"jaxpho.{name}") for name in _READERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _psfs(folder: Path, path: Path):
    from jaxpho.config import load_config
    from jaxpho.data.ingest import read_images
    from jaxpho.run.field import read_positions
    from jaxpho.run.knownpsfs import known_psfs

    config = load_config(path)
    images = read_images(
        config.images, config.root, config.bands, unit=config.unit, require_psf=False,
        precision=config.precision,
    )  # fmt: skip
    cache = config.psf_cache or folder / "psf_mixtures.h5"
    return known_psfs(images.exposures, read_positions(config, images), cache)
