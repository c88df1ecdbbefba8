"""PSF images in HDF5 files."""

import logging

import h5py
import numpy as np

from jaxpho.errors import InputError

log = logging.getLogger("psfmix.inputs")

# Columns that tell a store of mixtures.
_MIXTURE = {"amp", "Cxx"}
# Long for a FITS keyword, natural for an attribute.
_LONG_NAMES = {"OVERSAMPLE": "OVERSAMPL", "PIXELSCALE": "PIXELSCL"}


def is_hdf5(path):
    """Whether a file is HDF5, by its content."""
    return bool(h5py.is_hdf5(path))


def read_hdf5(path, name=None, cube=False):
    """An image data set and the attributes that describe it.

    Parameters
    ----------
    path : path
    name : str, optional
        Path of the data set; default the first one with two dimensions, in alphabetical order.
    cube : bool
        Prefer the first data set with three.

    Returns
    -------
    array : array
    headers : list of dict
        Attributes of the data set, then of the groups around it, innermost first; names in
        capitals, single numbers as Python's.
    name : str

    Raises
    ------
    InputError
        Damaged file, a store of mixtures, no image or no such data set.
    """
    try:
        with h5py.File(path, "r") as file:
            found = {}

            def note(key, node):
                if isinstance(node, h5py.Dataset):
                    found[key] = node

            file.visititems(note)
            key = _choose(path, found, name, cube)
            node = found[key]
            array = np.asarray(node[()])
            headers = [_header(node)]
            while node.name != "/":
                node = node.parent
                headers.append(_header(node))
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"PSF image {path} is not a readable HDF5 file ({error})") from error
    return array, headers, key


def _choose(path, found, name, cube):
    """Path of the data set to read."""
    mixtures = [key for key, node in found.items() if _MIXTURE <= set(node.dtype.names or ())]
    images = {key: node.ndim for key, node in found.items() if node.dtype.kind in "fiu"}
    images = {key: ndim for key, ndim in images.items() if ndim >= 2}
    if name is not None:
        key = str(name).strip("/")
        if key in found and key not in mixtures:
            return key
        if key not in found:
            expected = ", ".join(found) or "no data set"
            raise InputError(f"PSF image {path} has no data set {name!r}; it has: {expected}")
    if mixtures:
        raise InputError(
            f"PSF image {path} is a store of PSF mixtures already ({', '.join(mixtures)}); "
            "expected an image"
        )
    if not images:
        kinds = ", ".join(f"{key} {node.shape}" for key, node in found.items()) or "nothing"
        raise InputError(f"PSF image {path} holds no image; it has: {kinds}")
    wanted = 3 if cube else 2
    key = min(images, key=lambda key: images[key] != wanted)
    log.info("%s: no data set given, taking %s", path, key)
    return key


def _header(node):
    """Attributes as a FITS header has them."""
    out = {}
    for key, value in node.attrs.items():
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        value = value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value
        value = value.item() if np.size(value) == 1 and hasattr(value, "item") else value
        out[_LONG_NAMES.get(key.upper(), key.upper())] = value
    return out
