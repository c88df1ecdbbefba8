"""`jaxpho evaluate`: chi2, its gradient, residuals and the packed arrays of one patch."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.evaluate")

DESCRIPTION = """\
Pack one patch and evaluate the likelihood at given parameters. The file that is written holds
chi2 [band], lnlike, lnlike_grad, residual [pixel], the bounded posterior, and the packed arrays.
The sources of --fixed are subtracted from the data first. With --compat forcepho everything is in
forcepho's units and conventions; without, chi2 is sum ((d - m)/sigma)^2 of jaxpho's own model.
"""


def add_selection(parser) -> None:
    """Which sources, which pixels."""
    parser.add_argument(
        "--catalog", metavar="C", help="catalogue with the parameters; default: the configuration's"
    )
    parser.add_argument(
        "--catalog-format", choices=["plain", "tractor", "forcepho"],
        help="layout of the catalogues named here, with its own units; default: jaxpho's own is "
        "recognised, others are read as the configuration's (peaks.format, columns, flux_unit)",
    )  # fmt: skip
    parser.add_argument("--fixed", metavar="F", help="further sources, rendered as they are")
    parser.add_argument(
        "--region", metavar="RA,DEC,RADIUS", help="circle: degrees, degrees, arcsec; default: the "
        "configuration's. With a negative RA write --region=RA,DEC,RADIUS"
    )  # fmt: skip


def add_arguments(parser) -> None:
    """The arguments after the configuration."""
    add_selection(parser)
    parser.add_argument(
        "--start", metavar="S", help="catalogue with the starting positions, where the astrometry "
        "is linearised; default: the configuration's"
    )  # fmt: skip
    parser.add_argument(
        "--params", metavar="P.npy", help="parameters in the order of param_names, instead of C's"
    )
    parser.add_argument("--compat", choices=["forcepho"], help="whose conventions")
    parser.add_argument(
        "--splines", choices=["rectangular", "smooth"],
        help="with --compat forcepho: how its Sersic table is interpolated (default: rectangular; "
        "smooth: as its older tables)"
    )  # fmt: skip
    parser.add_argument("--out", metavar="OUT.npz", required=True, help="file to write")


def parse_region(text: str | None):
    """A circle from "ra,dec,radius_arcsec"; None for None."""
    from jaxpho.data.forcepho import Circle

    if text is None:
        return None
    try:
        ra, dec, radius = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--region {text}: expected three numbers, ra,dec,radius_arcsec") from None
    if not (math.isfinite(ra) and abs(dec) <= 90 and 0 < radius < math.inf):
        raise InputError(
            f"--region {text}: expected degrees, degrees within -90 to 90, and a radius > 0 arcsec"
        )
    return Circle(ra, dec, radius)


def existing(text: str | None, option: str) -> Path | None:
    """A file that a user names; InputError when there is none."""
    if text is None:
        return None
    if not Path(text).is_file():
        raise InputError(f"{option} {text}: the file does not exist")
    return Path(text)


def load_forcepho_config(path):
    """forcepho's configuration from a YAML file; InputError when it is another."""
    from jaxpho.compat.config import is_forcepho, parse_config
    from jaxpho.config import read_yaml

    values = read_yaml(path)
    path = Path(path)
    if not is_forcepho(values):
        raise InputError(
            f"{path.name}: expected a configuration with forcepho's keys (bandlist, "
            f"pixelstorefile, ...); found {', '.join(map(str, values)) or 'nothing'}"
        )
    return parse_config(values, path.name, path.absolute().parent)


def run(args) -> int:
    """Carry out the command; returns the exit code."""
    from jaxpho.compat.evaluate import write_arrays

    if Path(args.out).suffix != ".npz":
        raise InputError(f"--out {args.out}: expected a file name that ends in .npz")
    if args.compat and args.catalog_format:
        raise InputError(
            f"--catalog-format {args.catalog_format}: with --compat forcepho all catalogues are "
            "forcepho's"
        )
    if args.splines and not args.compat:
        raise InputError(
            f"--splines {args.splines}: only --compat forcepho has a Sersic table to interpolate"
        )
    arrays = _as_forcepho(args) if args.compat else _as_jaxpho(args)
    write_arrays(args.out, arrays)
    log.info(
        "%d sources, %d exposures, %d pixels: lnlike = %.6f; wrote %s",
        arrays["n_sources"], len(arrays["epaths"]), len(arrays["xpix"]), arrays["lnlike"],
        args.out,
    )  # fmt: skip
    return 0


def _as_forcepho(args) -> dict:
    from jaxpho.compat.evaluate import Request, evaluate_patch

    config = load_forcepho_config(args.config)
    request = Request(
        catalog=existing(args.catalog, "--catalog"),
        start=existing(args.start, "--start"),
        fixed=existing(args.fixed, "--fixed"),
        params=existing(args.params, "--params"),
        region=parse_region(args.region),
        splines=args.splines or "rectangular",
    )
    return evaluate_patch(config, request)


def _as_jaxpho(args) -> dict:
    """With our model: its own PSF for each source, exact pixels, every exposure that overlaps."""
    from jaxpho.run.scene import read_scene

    return read_scene(args).evaluate(existing(args.params, "--params"))
