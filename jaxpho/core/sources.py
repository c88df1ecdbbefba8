"""Source types: which parameters a source has and which profiles they draw.

A source is one or more components that share a centre; a component is a Sersic profile or a point.
To add a type made of these, add an entry to `SOURCE_TYPES` here and a test in
``tests/core/test_sources.py``; nothing else lists types.
"""

from typing import NamedTuple

SHAPE = ("rhalf", "sersic", "e1", "e2")


class Component(NamedTuple):
    """One profile of a source.

    Attributes
    ----------
    profile : str
        "sersic" or "point".
    suffix : str
        Appended to the component's own parameters ("_disk" gives ``flux_disk``, ``rhalf_disk``).
    fixed : tuple
        Pairs (parameter, value) held by the type, e.g. (("sersic", 4.0),).
    """

    profile: str
    suffix: str = ""
    fixed: tuple[tuple[str, float], ...] = ()


class SourceType(NamedTuple):
    """A named list of components with a common centre."""

    name: str
    components: tuple[Component, ...]
    help: str

    @property
    def fluxes(self) -> tuple[str, ...]:
        """Names of the flux parameters (one value per band each)."""
        return tuple("flux" + c.suffix for c in self.components)

    @property
    def shapes(self) -> tuple[str, ...]:
        """Names of the free shape parameters, in order."""
        out = []
        for c in self.components:
            if c.profile == "sersic":
                held = dict(c.fixed)
                out += [name + c.suffix for name in SHAPE if name not in held]
        return tuple(out)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All parameter names: fluxes (per band), ra, dec, shapes."""
        return (*self.fluxes, "ra", "dec", *self.shapes)


SOURCE_TYPES: dict[str, SourceType] = {
    t.name: t
    for t in (
        SourceType("sersic", (Component("sersic"),), "Sersic profile of free index"),
        SourceType(
            "exp", (Component("sersic", "", (("sersic", 1.0),)),), "exponential disk, n = 1"
        ),
        SourceType("dev", (Component("sersic", "", (("sersic", 4.0),)),), "de Vaucouleurs, n = 4"),
        SourceType("point", (Component("point"),), "point source, a star"),
        SourceType(
            "bulge_disk",
            (Component("sersic", "_disk"), Component("sersic", "_bulge")),
            "two Sersic profiles with one centre",
        ),
        SourceType(
            "sersic_point",
            (Component("sersic"), Component("point", "_point")),
            "Sersic profile with a point source (an active nucleus) at its centre",
        ),
    )
}


AUTO = "auto"
"""Type of sources for which the fit chooses among `AUTO_TYPES`."""
AUTO_TYPES = ("point", "exp", "dev", "sersic")


def base_name(parameter: str) -> str:
    """Name without the component's suffix: ``rhalf_disk`` -> ``rhalf``."""
    return parameter.split("_", 1)[0]
