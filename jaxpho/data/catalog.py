"""The peak catalogue: what is known of every source before the fit."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Peak:
    """One source to fit."""

    id: str | int
    type: str  # "sersic", "exp", "dev", "point", "bulge_disk", "sersic_point"
    ra: float  # deg
    dec: float  # deg
    values: dict[str, float] = field(default_factory=dict)  # rhalf arcsec, sersic, q, pa deg, ...
    flux: dict[tuple[str, str], float] = field(default_factory=dict)  # ("flux", band) -> value
    fixed: frozenset[str] = frozenset()  # parameter names held at these values
    flags: int = 0
