"""The reference of the catalogue, docs/catalogue.md, from the registries of columns and flags."""

from __future__ import annotations

import sys
from pathlib import Path

from jaxpho.files import replacing
from jaxpho.fit import flags
from jaxpho.output import columns

_TEXT = """\
# The catalogue

<!-- Made from the registries by `make reference`; change those, not this file. -->

`catalog.fits` has one row per source of the input list, in its order, in the extension `CATALOG`.
Each column's unit is in `TUNITn`, its meaning in `TCOMMn`; the header has the bands in order
(`BANDS`), the unit of fluxes (`FLUXUNIT`), the Sersic mixture (`SERSIC`), the seed (`SEED`) and the
name of each flag's bit (`FLAG0`, `FLAG1` ...), and the sampler (`SAMPLER`).

## Values and errors

- The value of a column is that of the maximum a posteriori fit: the same with and without samples.
- `_err` is the standard deviation of the posterior draws where there are any (`errors_from` is
  `samples`), else that of the Laplace approximation, from the curvature at the maximum (`laplace`).
  `laplace draws` and `svi draws` are draws of an approximation, with bounds but no more exact.
  It is not a distance from the value to a quantile: where a posterior is skewed, `_mean`, `_p16`,
  `_p50` and `_p84` (with samples only) say more, and the value need not lie in the middle.
- `ra_err` and `dec_err` are in mas, and `ra_err` is that of the angle on the sky, RA times
  cos(dec): `ra +- ra_err / 3.6e6 / cos(dec)` in degrees. `radec_cov` is their covariance.
- `flux_cov` [B, B] is the covariance of the total fluxes of a source between the bands.
- NaN is not measured: a flux in a band in which the source has no pixel, and the errors of sources
  that were not fitted (their values are those of the input). The error of a parameter that was held
  (`fixed`) is 0.
- Errors assume independent pixels of the given sigma. They contain the covariance with the other
  sources of the patch, not with those held in neighbouring patches.

## Columns

`{{band}}` stands for each band; `{{part}}` for the components of sources that have several (disk,
bulge, sersic, point), whose shape columns end in `_disk` and `_bulge`. The unit "flux" is
`FLUXUNIT`.

{columns}

{spread} have further columns:

| ending | meaning |
|---|---|
{endings}

## Flags

`flags` is the sum of the values below, `flag_names` the same in words; 0 is good. A source with
`failed` or `no_data`, or a value that is not finite, counts as not measured in the exit code.

{flags}

In Python, `jaxpho.fit.flags.decode(8192)` gives the names: `['prior_dominated']`.
"""


def reference() -> str:
    """Text of docs/catalogue.md."""
    spread = [c.name for c in (*columns.FLUX, *columns.COMPONENT_FLUX, *columns.SHAPE) if c.spread]
    named = [f"`{name}`" for name in spread]
    return _TEXT.format(
        columns=columns.table(),
        spread=", ".join(named[:-1]) + " and " + named[-1],
        endings="\n".join(f"| `{end}` | {text.format('it')} |" for end, text in columns.SPREAD),
        flags=flags.table(),
    )


if __name__ == "__main__":
    with replacing(Path(sys.argv[1])) as temporary:
        temporary.write_text(reference(), encoding="utf-8")
