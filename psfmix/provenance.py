"""What a stored group says about where it came from: options, versions, images, quality."""

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from psfmix.inputs import checksum_of

_PACKAGES = ("jaxpho", "jax", "numpyro", "numpy", "scipy", "astropy", "h5py")


def provenance_of(args):
    """Attributes of the stored group: options and versions."""
    out = {
        "trim": args.trim,
        "signed": bool(args.signed),
        "options": json.dumps(
            {k: v for k, v in vars(args).items() if k not in ("psf_image", "given")}
        ),
        "python": platform.python_version(),
    }
    if args.sci_pix_scale is not None:
        out["sci_pix_scale"] = args.sci_pix_scale
    for name in _PACKAGES:
        try:
            out[f"version_{name}"] = version(name)
        except PackageNotFoundError:
            out[f"version_{name}"] = "unknown"
    return out


def provenance_of_image(source, fit, background=0.0, posterior=None):
    """Attributes of the stored group: the image, and how good the mixture is."""
    out = {
        "image": source.path.name,
        "image_ext": source.ext,
        "image_sha256": source.checksum,
        "oversample": source.oversample,
        "oversample_from": source.oversample_from,
        "residual": fit.residual,
        "ee_error": fit.ee_error,
        "centroid_error": fit.centroid_error,
        "shape_error": fit.shape_error,
        "method": "map" if posterior is None else "nuts",
        "background": background,
    }
    if posterior is not None:
        out |= {
            "sigma": posterior.sigma,
            "log_likelihood": posterior.best_log_likelihood,
            "log_likelihood_optimum": posterior.optimum_log_likelihood,
            "divergences": posterior.divergences,
            "seed": posterior.seed,
        }
    return out


def grid_provenance(images):
    """Attributes of the stored group: the images of a cube or of a folder (`PSFImage`).

    The checksum is that of the file; of several files that of the lines "SHA-256, two blanks,
    name" of all of them in the order of the table, as sha256sum prints them.
    """
    files = {image.path: image.checksum for image in images}
    checksum = images[0].checksum
    if len(files) > 1:
        lines = "".join(f"{image.checksum}  {image.path.name}\n" for image in images)
        checksum = hashlib.sha256(lines.encode()).hexdigest()
    return {
        "image_ext": ", ".join(dict.fromkeys(image.ext for image in images)),
        "image_sha256": checksum,
        "image_count": len(images),
        "oversample_from": ", ".join(dict.fromkeys(image.oversample_from for image in images)),
    }


def model_provenance(path, ext, kind):
    """Attributes of the stored group: a model that gives images at any position."""
    return {
        "image_ext": "" if ext is None else str(ext),
        "image_sha256": checksum_of(Path(path)),
        "oversample_from": kind,
    }
