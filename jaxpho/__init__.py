"""Forward-modelling photometry and shapes of galaxies, in JAX."""

from importlib import import_module

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "Exposure": "jaxpho.data.exposure",
    "FitOptions": "jaxpho.fit.options",
    "ImageFit": "jaxpho.imagefit",
    "InputError": "jaxpho.errors",
    "Nuisance": "jaxpho.data.exposure",
    "Patch": "jaxpho.data.packing:PackedPatch",
    "PatchResult": "jaxpho.fit.result",
    "Peak": "jaxpho.data.catalog",
    "PriorOptions": "jaxpho.fit.options",
    "SampleOptions": "jaxpho.fit.options",
    "SceneModel": "jaxpho.fit.models",
    "exposure_from_arrays": "jaxpho.data.arrays",
    "fit_images": "jaxpho.imagefit",
    "fit_patch": "jaxpho.fit.driver",
    "psf_from_image": "jaxpho.prepare",
    "scene_model": "jaxpho.fit.models",
    "simple_wcs": "jaxpho.data.arrays",
    "simulate_images": "jaxpho.simulate",
    "to_inference_data": "jaxpho.output.inference",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    """Public names are imported when first used: ``import jaxpho`` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxpho' has no attribute {name!r}")
    module, _, other = _PUBLIC[name].partition(":")
    return getattr(import_module(module), other or name)


def __dir__():
    return sorted(__all__)
