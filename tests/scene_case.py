"""Small fields for the tests of the superscene."""

import numpy as np

from jaxpho.data.catalog import Peak
from jaxpho.superscene.policy import SceneOptions
from jaxpho.superscene.state import new_state


def row_of_stars(n=6, *, target=4, per_patch=2, max_active=3, step=1.5):
    """Stars in a row, each overlapping the next (distance 1.5, radii of 1 arcsec)."""
    peaks = [
        Peak(f"s{i}", "point", 10 + i * step / 3600, 0.0, flux={("flux", "g"): float(n - i)})
        for i in range(n)
    ]
    options = SceneOptions(target=target, per_patch=per_patch, max_active=max_active)
    return new_state(peaks, ["g"], np.ones(n), options)


def lonely_stars(n, **options):
    """Stars that overlap nobody, on a grid."""
    peaks = [
        Peak(i, "point", 10 + (i % 100) / 360, (i // 100) / 360, flux={("flux", "g"): 1.0})
        for i in range(n)
    ]
    return new_state(peaks, ["g"], np.ones(n), SceneOptions(**options))
