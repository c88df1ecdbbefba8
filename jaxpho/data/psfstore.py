"""The HDF5 store of PSF mixtures, ours and forcepho's."""

import logging
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np

from jaxpho.data.hdf5 import open_hdf5, read_array
from jaxpho.data.psfmodel import (
    PSF_DTYPE,
    PSFModel,
    ReducedPSF,
    check_gaussians,
    check_reduced,
)
from jaxpho.data.splinestore import read_spline_table
from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.psfstore")

_DATASETS = ("parameters", "detector_locations", "reduced")
_ALIASES = {"xcr": "xcen", "ycr": "ycen"}
# Amplitudes within this of 1 count as normalised when a store does not say what they sum to.
_UNIT_SUM_ATOL = 1e-4


def list_psf_groups(path):
    """Names of the groups of a PSF store that hold a ``parameters`` data set, sorted."""
    names = []

    def visit(name, node):
        if isinstance(node, h5py.Group) and "parameters" in node:
            names.append(name)

    with open_hdf5(path, "PSF store") as file:
        try:
            file.visititems(visit)
        except (OSError, RuntimeError) as error:
            raise InputError(f"PSF store {path} is damaged ({error})") from None
    return sorted(names)


def read_psf_store(path, group):
    """Read the PSF mixtures of one band or exposure.

    Parameters
    ----------
    path : path
        HDF5 file, ours or forcepho's (``parameters`` of shape (nloc, nradii, ngauss) or (nloc,
        n_psf_per_source), centres named xcr/ycr or xcen/ycen).
    group : str
        Band, or band/exposure.

    Returns
    -------
    PSFModel
        ``includes_pixel`` is False and ``amplitude_sum`` follows from the amplitudes when the
        store does not say (forcepho's stores).

    Raises
    ------
    InputError
        Missing or foreign file, missing group, data set, field or attribute, impossible values.
    """
    with open_hdf5(path, "PSF store") as file:
        try:
            return _read_group(file, path, group)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"PSF store {path}, group {group!r} cannot be read: the file is damaged ({error})"
            ) from error


def _read_group(file, path, group):
    where = f"PSF store {path}, group {group!r}"
    if group not in file:
        present = ", ".join(sorted(file)) or "none"
        raise InputError(f"PSF store {path} has no group {group!r}; it holds: {present}")
    node = file[group]
    if not isinstance(node, h5py.Group) or "parameters" not in node:
        raise InputError(f"{where} has no data set 'parameters': not a PSF store")
    if "n_psf_per_source" not in node.attrs:
        raise InputError(f"{where} lacks the attribute 'n_psf_per_source'")
    data = node["parameters"]
    if not isinstance(data, h5py.Dataset) or data.dtype.names is None:
        raise InputError(f"{where}: 'parameters' is not a structured array of PSF Gaussians")
    parameters = _as_psf_dtype(data[()], where)
    total = _whole(node.attrs["n_psf_per_source"], f"{where}: n_psf_per_source")
    if not 1 <= parameters.ndim <= 3 or parameters.size == 0:
        raise InputError(
            f"{where}: 'parameters' has shape {parameters.shape}; expected (locations, Gaussians) "
            "or (locations, radii, Gaussians)"
        )
    nradii = parameters.shape[1] if parameters.ndim == 3 else 1
    if parameters.ndim == 1:
        parameters = parameters[None, :]
    parameters = parameters.reshape(len(parameters), -1)
    # Some writers count the Gaussians of one radius only; both readings are unambiguous.
    if total not in (parameters.shape[1], parameters.shape[1] // nradii):
        raise InputError(
            f"{where}: n_psf_per_source is {total} but 'parameters' holds "
            f"{parameters.shape[1]} Gaussians per location"
        )
    check_gaussians(parameters, where)
    locations = None
    if "detector_locations" in node:
        locations = read_array(node, "detector_locations", where).astype(float)
        if locations.shape != (2, len(parameters)):
            raise InputError(
                f"{where}: detector_locations has shape {locations.shape}; "
                f"expected (2, {len(parameters)})"
            )
        locations = locations.T
    known = {"n_psf_per_source", "includes_pixel", "amplitude_sum"}
    attrs = {key: value for key, value in node.attrs.items() if key not in known}
    amplitude_sum = node.attrs.get("amplitude_sum")
    if amplitude_sum is None:
        sums = _amplitude_sums(parameters)
        amplitude_sum = "unit" if np.allclose(sums, 1, rtol=0, atol=_UNIT_SUM_ATOL) else "stamp"
    includes_pixel = node.attrs.get("includes_pixel", False)
    if np.asarray(includes_pixel).dtype.kind not in "biu":
        raise InputError(f"{where}: includes_pixel is {includes_pixel!r}; expected true or false")
    try:
        return PSFModel(
            parameters=parameters,
            locations=locations,
            includes_pixel=bool(includes_pixel),
            amplitude_sum=str(amplitude_sum),
            attrs=attrs,
            reduced=_read_reduced(node, len(parameters), where),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _whole(value, where):
    """A whole number from an attribute."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu" or array.size != 1:
        raise InputError(f"{where} is {array.tolist()!r}; expected a whole number")
    return int(array.ravel()[0])


def _read_reduced(node, nloc, where):
    """The reduced mixtures of a group, none where it has none."""
    if "reduced" not in node:
        return ()
    data = node["reduced"]
    if not isinstance(data, h5py.Dataset) or data.dtype.names is None:
        raise InputError(f"{where}: 'reduced' is not a structured array of PSF Gaussians")
    missing = [name for name in ("count", "width", "error") if name not in data.attrs]
    if missing:
        raise InputError(f"{where}: 'reduced' lacks the attribute {missing[0]!r}")
    count, width, error = (np.atleast_1d(data.attrs[name]) for name in ("count", "width", "error"))
    alike = len(count) == len(width) == len(error) and count.dtype.kind in "iu"
    if not (alike and np.all(count > 0) and data.shape == (nloc, count.sum())):
        raise InputError(
            f"{where}: 'reduced' has shape {data.shape} and {len(count)}, {len(width)} and "
            f"{len(error)} numbers in its attributes count, width and error; expected "
            f"({nloc}, sum of count) and as many of each"
        )
    parameters = _as_psf_dtype(data[()], f"{where}, 'reduced'")
    parts = np.split(parameters, np.cumsum(count)[:-1], axis=1)
    reduced = tuple(map(ReducedPSF, map(float, width), parts, map(float, error)))
    check_reduced(reduced, nloc, f"{where}, 'reduced'")
    return reduced


def _amplitude_sums(parameters):
    """Sum of the amplitudes at each location and for each Sersic radius."""
    bins = parameters["sersic_bin"][0]
    return np.array(
        [parameters["amp"][:, bins == b].sum(axis=1, dtype=float) for b in np.unique(bins)]
    )


def _as_psf_dtype(values, where):
    """A structured array under either set of names, as `PSF_DTYPE`."""
    names = values.dtype.names
    out = np.zeros(values.shape, dtype=PSF_DTYPE)
    for name in PSF_DTYPE.names:
        alias = _ALIASES.get(name, name)
        found = name if name in names else alias if alias in names else None
        if found is None and name == "sersic_bin":
            out[name] = -1
            continue
        if found is None or values.dtype[found].kind not in "fiu":
            raise InputError(
                f"{where}: 'parameters' has no numeric field {name!r} (or {alias!r}); "
                f"it has: {', '.join(names)}"
            )
        out[name] = values[found]
    return out


def read_sersic_radii(path):
    """Radii [nradii], arcsec, of forcepho's Sersic table, which ``sersic_bin`` counts.

    Raises
    ------
    InputError
        As `jaxpho.data.splinestore.read_spline_table`.
    """
    return np.asarray(read_spline_table(path).radii, float)


def check_psf_store(path, group, overwrite=True):
    """Whether a group can be written to a store: to be asked before any heavy work.

    Raises
    ------
    InputError
        A name that no group can have, a folder, a file that is not HDF5 or that another program
        holds open, a place that holds something else, a group that exists when `overwrite` is
        False, or a folder that cannot be written to.
    """
    path = Path(path)
    _check_name(path, group)
    if path.is_dir():
        raise InputError(f"PSF store {path} is a folder; expected the name of an HDF5 file")
    if path.exists():
        try:
            # for writing: this tells that it is locked
            with _alone(path.parent), h5py.File(path, "r+") as file:
                _check_place(file, path, group, overwrite)
        except OSError as error:
            raise InputError(
                f"PSF store {path} cannot be opened as an HDF5 file ({error})"
            ) from error
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"PSF store {path}: the folder {folder} cannot be written to")


def write_psf_store(path, group, model, attrs=None, overwrite=True, nradii=None, forcepho=False):
    """Write or replace one group of a PSF store; other groups are kept.

    The file appears in one step: a copy is changed under a temporary name, then renamed.

    Parameters
    ----------
    path : path
        HDF5 file, created when absent.
    group : str
        Band, or band/exposure.
    model : PSFModel
    attrs : dict, optional
        Further attributes (provenance).
    overwrite : bool
        When False an existing group is an error.
    nradii : int, optional
        Write the mixture once per Sersic radius, shape (nloc, nradii, ngauss).
    forcepho : bool
        forcepho's field names (xcen, ycen) and two-dimensional shape.

    Raises
    ------
    InputError
        As `check_psf_store`, and when the file cannot be written.
    """
    path = Path(path)
    _check_name(path, group)
    if nradii is not None:
        model = model.repeated(nradii)
    parameters = model.parameters
    if nradii is not None and not forcepho:
        parameters = parameters.reshape(len(parameters), nradii, -1)
    if forcepho:
        names = [(_ALIASES.get(name, name), PSF_DTYPE[name]) for name in PSF_DTYPE.names]
        parameters = parameters.view(np.dtype(names))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            _replace_group(path, group, model, parameters, attrs or {}, overwrite)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"PSF store {path} cannot be written ({error})") from error
    log.info("wrote PSF %s: %d location(s), %d Gaussians", group, *model.parameters.shape)


def _replace_group(path, group, model, parameters, attrs, overwrite):
    """Change a copy of the file and put it in its place."""
    if path.exists():
        with open_hdf5(path, "PSF store") as file:
            _check_place(file, path, group, overwrite)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        if path.exists():
            shutil.copy2(path, temporary)
        else:
            # mkstemp makes the file private; a new store is as readable as any new file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
        with h5py.File(temporary, "a" if path.exists() else "w") as file:
            node = file.require_group(group)
            _drop(node)
            node.create_dataset("parameters", data=parameters)
            if model.locations is not None:
                node.create_dataset("detector_locations", data=model.locations.T)
            if model.reduced:
                _write_reduced(node, model.reduced)
            node.attrs.update({**model.attrs, **attrs})
            node.attrs["n_psf_per_source"] = model.ngauss
            node.attrs["includes_pixel"] = bool(model.includes_pixel)
            node.attrs["amplitude_sum"] = model.amplitude_sum
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _write_reduced(node, reduced):
    """All reduced mixtures as one data set [nloc, sum of count]; attributes have one number each.

    Only the data set `parameters` makes a group a PSF for other readers: they do not see this one.
    """
    data = np.concatenate([rung.parameters for rung in reduced], axis=1)
    node.create_dataset("reduced", data=data)
    node["reduced"].attrs["count"] = [rung.parameters.shape[1] for rung in reduced]
    node["reduced"].attrs["width"] = [rung.width for rung in reduced]
    node["reduced"].attrs["error"] = [rung.error for rung in reduced]


def _check_name(path, group):
    """Raise InputError for a name that no group of mixtures can have."""
    for part in group.split("/"):
        if part in ("", ".", "..", *_DATASETS):
            raise InputError(
                f"PSF store {path}: {group!r} cannot name PSF mixtures; expected a "
                "band or band/exposure, whose parts are not empty, '.', '..' or "
                + ", ".join(_DATASETS)
            )


def _check_place(file, path, group, overwrite):
    """Whether a group holds mixtures already; InputError where it holds something else."""
    parts = group.split("/")
    for depth in range(1, len(parts) + 1):
        name = "/".join(parts[:depth])
        if name not in file:
            return False
        if not isinstance(file[name], h5py.Group):
            raise InputError(
                f"PSF store {path}: {name!r} is a data set, not PSF mixtures; it is left as it is"
            )
    node = file[group]
    if "parameters" in node:
        if not overwrite:
            raise InputError(f"PSF store {path} has a group {group!r} already (overwrite is off)")
        return True
    if any(isinstance(item, h5py.Dataset) for item in node.values()) or len(node.attrs):
        raise InputError(
            f"PSF store {path}: group {group!r} holds something else than PSF mixtures; it is left "
            "as it is"
        )
    return False


@contextmanager
def _alone(folder):
    """One writer at a time in a folder, where its file system knows locks."""
    handle = None
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # what is written is whole all the same
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _drop(node):
    """Remove what a group of mixtures holds but keep groups nested below it (band/exposure)."""
    for name in _DATASETS:
        if name in node:
            del node[name]
    for name in list(node.attrs):
        del node.attrs[name]
