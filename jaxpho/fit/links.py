"""Shapes that differ from band to band: linear in wavelength, or each band its own.

A source has one shape in all bands unless `fit.links` says otherwise. Then the shape parameter
itself is that at the reference (the mean wavelength of the bands, or the reference band), and
further parameters say how others differ: ``drhalf`` is the slope of ln rhalf with wavelength, or
for free bands ln(rhalf / rhalf of the reference band), one for each of the others; ``dsersic``,
``de1`` and ``de2`` are slopes or differences of n, e1 and e2. They are zero for one shape
in all bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpho.core.sources import SHAPE, base_name
from jaxpho.errors import InputError
from jaxpho.fit.prior_options import PriorOptions, prior_keys
from jaxpho.schema import option

KINDS = ("constant", "wavelength", "free")
TYPICAL = {"rhalf": 0.3, "sersic": 1.0, "e1": 0.1, "e2": 0.1}
"""Standard deviation of the difference between the bands at both ends, by default."""
NOMINAL = {
    "u": 0.36, "g": 0.48, "r": 0.62, "i": 0.76, "z": 0.90, "y": 0.97,
    "J": 1.25, "H": 1.64, "K": 2.19, "Ks": 2.15, "VIS": 0.72,
    "F435W": 0.433, "F606W": 0.592, "F775W": 0.769, "F814W": 0.805, "F850LP": 0.904,
    "F105W": 1.055, "F125W": 1.249, "F140W": 1.392, "F160W": 1.537,
    "F070W": 0.704, "F090W": 0.902, "F115W": 1.154, "F150W": 1.501, "F200W": 1.989,
    "F277W": 2.776, "F356W": 3.566, "F444W": 4.402,
}  # fmt: skip
"""Wavelengths [micron] of bands by their usual names, good to a few per cent."""


@dataclass
class LinkOptions:
    """How a shape differs from band to band. Plain text means `kind`."""

    _shorthand = "kind"
    kind: str = option(
        "constant",
        "constant: the same in all bands; wavelength: ln rhalf, n, e1, e2 linear in wavelength; "
        "free: each band its own",
        choices=KINDS,
    )
    sigma: float | None = option(
        None,
        "standard deviation of the normal prior about 0 of the slope (per micron), or of a band's "
        "difference from the reference; default .3 in ln rhalf, 1 in n, .1 in e1 and e2 between "
        "the bluest and the reddest band",
        gt=0,
    )
    reference: str | None = option(
        None, "free: band that the shape parameter itself belongs to; default the first"
    )


LINK_HELP = (
    "rhalf, sersic or ellipticity (with a component's suffix) -> how it differs from band to band; "
    "the catalogue then has drhalf, dsersic, de1, de2 (docs/models.md)"
)
WAVELENGTH_HELP = "band -> wavelength, where links need it and the name of the band does not tell"


def check_links(links: Mapping[str, LinkOptions]) -> None:
    """Raise InputError for a link of something that is no shape."""
    for key, link in links.items():
        if base_name(key) not in ("rhalf", "sersic", "ellipticity"):
            raise InputError(
                f"'fit.links': expected rhalf, sersic or ellipticity (with a component's suffix), "
                f"found '{key}'"
            )
        if link.reference is not None and link.kind != "free":
            raise InputError(f"'fit.links.{key}.reference' belongs to kind free, not {link.kind}")
        if link.sigma is not None and link.kind == "constant":
            raise InputError(f"'fit.links.{key}.sigma' belongs to kinds wavelength and free")


def link_of(name: str, links: Mapping[str, LinkOptions]) -> LinkOptions | None:
    """The link of a shape parameter, or None for the same value in all bands."""
    own, general = prior_keys(name)
    found = links.get(own, links.get(general))
    return None if found is None or found.kind == "constant" else found


def wavelengths_of(bands: Sequence[str], known: Mapping[str, float]) -> np.ndarray:
    """Wavelengths [micron] of bands, from the configuration or by name.

    Raises
    ------
    InputError
        For a band of which neither tells.
    """
    out = []
    for band in bands:
        value = known.get(band, NOMINAL.get(band, NOMINAL.get(band.upper())))
        if value is None:
            raise InputError(
                f"'fit.wavelengths': band '{band}' has none, and its name does not tell; expected "
                f"{band}: wavelength in micron"
            )
        if not value > 0:
            raise InputError(f"'fit.wavelengths.{band}': expected micron > 0, found {value:g}")
        out.append(float(value))
    return np.array(out)


class Difference:
    """The further parameters of one linked shape parameter.

    Attributes
    ----------
    name : "d" and the parameter's name.
    bands : ("",) for a slope, or the bands with a value of their own.
    weight : [B] factor of the parameter (or of the band's own) in each band.
    prior : PriorOptions
    """

    def __init__(self, name: str, link: LinkOptions, bands: Sequence[str], known: Mapping):
        self.name = "d" + name
        typical = TYPICAL[base_name(name)]
        if link.kind == "wavelength":
            wave = wavelengths_of(bands, known)
            if len(bands) > 1 and not np.ptp(wave) > 0:
                raise InputError(
                    f"'fit.wavelengths': all bands have {wave[0]:g} micron, expected different "
                    f"ones, as 'fit.links.{prior_keys(name)[1]}' is linear in wavelength"
                )
            self.bands: tuple[str, ...] = ("",)
            self.weight = wave - wave.mean()
            typical /= max(float(np.ptp(wave)), 1e-6)
        else:
            reference = bands[0] if link.reference is None else link.reference
            if reference not in bands:
                raise InputError(
                    f"'fit.links.{prior_keys(name)[1]}.reference': expected one of "
                    f"{', '.join(bands)}, found '{reference}'"
                )
            self.bands = tuple(band for band in bands if band != reference)
            self.weight = np.array([float(band != reference) for band in bands])
        self.prior = PriorOptions("normal", mean=0.0, sigma=link.sigma or typical)

    def band_of(self, band: str) -> str:
        """The label's band of the parameter that serves a band."""
        return "" if self.bands == ("",) else band


def is_difference(name: str) -> bool:
    """Whether a parameter is a slope or a difference of a shape; "drhalf:g" counts as one."""
    base = base_name(name.partition(":")[0])
    return base[:1] == "d" and base[1:] in SHAPE


def differences(name: str, options, bands: Sequence[str]) -> Difference | None:
    """What a shape parameter of the options needs beyond itself; None for nothing."""
    link = link_of(name, options.links)
    if link is None or len(bands) < 2:
        return None
    return Difference(name, link, bands, options.wavelengths)


def check_bands(options, bands: Sequence[str]) -> None:
    """Raise InputError when a link lacks a wavelength or names a band that is not fitted."""
    for key in options.links:
        name = key.replace("ellipticity", "e1")
        differences(name, options, bands)
