"""PSF mixtures from a store as the configuration asks for them: pixel, rotation, interpolation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import numpy as np

from jaxpho.data.exposure import PSFInput
from jaxpho.data.psfmodel import PSFModel
from jaxpho.data.psfstore import read_psf_store
from jaxpho.errors import InputError


@dataclass(frozen=True)
class NearestPSFModel(PSFModel):
    """A PSF that takes the mixture of the nearest detector location, as forcepho does."""

    def at(self, x=0.0, y=0.0, method="nearest"):
        """The mixture of the location nearest to a pixel; `method` is ignored."""
        return super().at(x, y, "nearest")

    def ladder_at(self, x=0.0, y=0.0, method="nearest"):
        """The reduced mixtures of that location."""
        return super().ladder_at(x, y, "nearest")


def read_psf_input(psf: PSFInput) -> PSFModel:
    """The mixture of a store, as the configuration asks for it.

    Raises
    ------
    InputError
        For an image or a PSFEx model, which must be turned into a mixture first, and for what
        `read_psf_store` refuses.
    """
    if psf.kind != "store":
        raise InputError(
            f"{psf.path}: expected a store of PSF mixtures (psf.store); found a PSF {psf.kind}, of "
            "which make-psf or jaxpho-fit make one"
        )
    model = read_psf_store(psf.path, psf.group)
    if psf.options.includes_pixel is not None:
        model = replace(model, includes_pixel=psf.options.includes_pixel)
    if psf.options.method == "nearest":
        fields = {f.name: getattr(model, f.name) for f in dataclasses.fields(PSFModel)}
        model = NearestPSFModel(**fields)
    return rotate_model(model, psf.options.rotate)


def rotate_model(model: PSFModel, angle: float) -> PSFModel:
    """A PSF turned counter-clockwise (x towards y) by an angle in degrees."""
    if angle == 0:
        return model
    reduced = [replace(r, parameters=_rotated(r.parameters, angle)) for r in model.reduced]
    return replace(model, parameters=_rotated(model.parameters, angle), reduced=tuple(reduced))


def _rotated(p: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y, cxx, cyy, cxy = (p[k].astype(float) for k in ("xcr", "ycr", "Cxx", "Cyy", "Cxy"))
    out = p.copy()
    out["xcr"], out["ycr"] = c * x - s * y, s * x + c * y
    out["Cxx"] = c * c * cxx - 2 * c * s * cxy + s * s * cyy
    out["Cyy"] = s * s * cxx + 2 * c * s * cxy + c * c * cyy
    out["Cxy"] = c * s * (cxx - cyy) + (c * c - s * s) * cxy
    return out
