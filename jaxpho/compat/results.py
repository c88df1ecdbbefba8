"""Samples of a patch in forcepho's layout and units (`patch<i>_samples.h5` of its runs).

Data sets, with A active sources, N = A (B + 6) parameters and T draws:

chain [T, N], starting_position [N], reference_coordinates [2], bandlist, shapenames, exposures;
structured, a row per source: active (start), final (last draw), fixed, bounds (two values a field),
chaincat (T values a field); stats, structured [T]; cov [N, N], the inverse mass matrix in the
unconstrained parameters of the sampler. Ours beside them: mass_matrix_initial, mass_matrix_final
[N, N] in the same parameters; group warmup with chain and stats of the warm-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np

from jaxpho.compat.catalog import SHAPE_COLUMNS
from jaxpho.compat.units import bounds_of, free_columns, is_plain, to_forcepho
from jaxpho.data.hdf5 import open_hdf5, writing
from jaxpho.errors import InputError
from jaxpho.fit.result import PatchResult

_TAGS = ("id", "source_index", "is_active", "is_valid", "n_iter", "n_patch")
_STATS = (
    ("chain", "i4"), ("depth", "i8"), ("step_size", "f8"), ("tune", "?"),
    ("mean_tree_accept", "f8"), ("tree_size", "f8"), ("diverging", "?"), ("energy", "f8"),
    ("model_logp", "f8"),
)  # fmt: skip
_ATTRIBUTE_LIMIT = 60_000
"""Bytes; HDF5 refuses attributes above 64 KiB."""
_NEEDED = ("chain", "active", "bandlist", "shapenames", "reference_coordinates")


@dataclass
class Membership:
    """Which sources of a field the sources of a patch are.

    Attributes
    ----------
    index : [S] their numbers in the field.
    roi : [S] radius of influence, arcsec.
    n_active : how many of them, the first ones, were fitted; the others were held.
    """

    index: Sequence[int]
    roi: Sequence[float]
    n_active: int

    @classmethod
    def of(cls, result: PatchResult) -> Membership:
        """For a patch that stands alone: sources without a free parameter are held ones."""
        n = len(result.source_ids)
        owners = [label[0] for label in result.labels if isinstance(label[0], int)]
        return cls(range(n), [0.0] * n, max(owners, default=-1) + 1)


def catalog_dtype(bands: Sequence[str]) -> np.dtype:
    """Row of forcepho's catalogues; InputError for a band with the name of another column."""
    for band in bands:
        if band in (*_TAGS, "roi", *SHAPE_COLUMNS):
            raise InputError(
                f"products.forcepho: band '{band}' has the name of a column of forcepho's "
                "catalogues"
            )
    numbers = [(name, "f8") for name in (*SHAPE_COLUMNS, *bands)]
    return np.dtype([(name, "i4") for name in _TAGS] + [("roi", "f4")] + numbers)


def catalog_of(result: PatchResult, vector, sources, membership: Membership) -> np.ndarray:
    """A catalogue of sources from their parameters [len(sources) (B + 6)], positions absolute."""
    out = np.zeros(len(sources), catalog_dtype(result.bands))
    values = np.asarray(vector, float).reshape(len(sources), -1)
    for j, name in enumerate((*result.bands, *SHAPE_COLUMNS)):
        out[name] = values[:, j]
    out["ra"] = (out["ra"] + result.reference[0]) % 360.0
    out["dec"] += result.reference[1]
    for row, s in zip(out, sources, strict=True):
        row["source_index"] = membership.index[s]
        row["id"] = number_of(result.source_ids[s], membership.index[s])
        row["roi"] = membership.roi[s]
    return out


def number_of(source_id, index: int) -> int:
    """forcepho's ids are 32-bit numbers: the id where it is one, else the number in the field."""
    try:
        value = int(source_id)
    except (TypeError, ValueError):
        return index
    return value if abs(value) < 2**31 else index


def write_forcepho_samples(
    path,
    result: PatchResult,
    membership: Membership | None = None,
    *,
    radius: float = 0.0,
    config: str | None = None,
    warmup: bool = True,
) -> np.ndarray:
    """Write the samples of a patch, atomically.

    Parameters
    ----------
    path : HDF5 file.
    result : PatchResult
        Its fitted sources must be single profiles. Parameters that forcepho does not have (sky,
        offsets) are left out: the draws of the others are marginalised over them.
    membership : Membership, optional
    radius : of the patch about the reference, arcsec.
    config : the configuration as JSON, kept as an attribute.
    warmup : write the group `warmup`. forcepho's own reader takes data sets only, and stops at it.

    Returns
    -------
    ndarray
        The catalogue `final`: the last draw, the optimum when there are no draws.

    Raises
    ------
    InputError
        For fitted sources of several components, and files that cannot be written.
    """
    membership = membership or Membership.of(result)
    active = list(range(membership.n_active))
    held = range(membership.n_active, len(result.source_ids))
    held = [s for s in held if is_plain(result, s)]  # for information: others are left out
    start = to_forcepho(result, result.theta if result.start is None else result.start, active)
    chain, stats = _chain(result, result.samples, result.statistics, active, tune=False)
    arrays = {
        "chain": chain,
        "starting_position": start,
        "reference_coordinates": np.asarray(result.reference, float),
        "bandlist": _bytes(result.bands),
        "shapenames": _bytes(SHAPE_COLUMNS),
        "exposures": _bytes(
            f"{b}/{e}" for b, e in zip(result.exposure_bands, result.exposures, strict=True)
        ),
        "active": catalog_of(result, start, active, membership),
        "final": catalog_of(result, chain[-1], active, membership),
    }
    arrays["active"]["is_active"] = arrays["final"]["is_active"] = 1
    arrays["final"]["n_iter"], arrays["final"]["n_patch"] = len(chain), 1
    if held:
        vector = to_forcepho(result, result.theta, held)
        arrays["fixed"] = catalog_of(result, vector, held, membership)
    arrays["chaincat"] = _chain_catalog(chain, arrays["active"], result)
    arrays["bounds"] = _bounds_catalog(result, arrays["active"], active)
    if stats is not None:
        arrays["stats"] = stats
    arrays |= _matrices(result, active)
    attrs = {
        "patchID": int(result.patch_id),
        "ndim": chain.shape[1],
        "n_call": int(sum(result.diagnostics.get(k, 0) for k in ("gradients", "warmup_gradients"))),
        "wall_time": float(sum(result.seconds.values())),
        "npix": int(np.sum(result.npix)),
        "nexp": len(result.exposures),
        "n_tune": 0,
        "n_sample": len(chain),
        "n_chain": 1 if result.samples is None else len(result.samples),
        "ra": float(result.reference[0]),
        "dec": float(result.reference[1]),
        "radius": radius / 3600.0,
        "flux_unit": result.unit,
    }
    if config is not None and len(config.encode()) < _ATTRIBUTE_LIMIT:
        attrs["config"] = config
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attrs)
        if warmup and result.warmup is not None:
            chain, stats = _chain(
                result, result.warmup, result.warmup_statistics, active, tune=True
            )
            group = file.create_group("warmup")
            group["chain"] = chain
            if stats is not None:
                group["stats"] = stats
            group.attrs["n_tune"] = len(chain)
    return arrays["final"]


def _bytes(names) -> np.ndarray:
    return np.array([name.encode("utf-8") for name in names], "S")


def _chain(result, samples, statistics, active, tune: bool):
    """Draws [T, N] of all chains, one after the other, and their statistics [T] or None.

    Without draws, the optimum as the only one.
    """
    if samples is None:
        return to_forcepho(result, result.theta, active)[None], None
    chain = to_forcepho(result, samples, active)
    n_chain, n_draw = chain.shape[:2]
    stats = np.zeros((n_chain, n_draw), np.dtype(list(_STATS)))
    stats["chain"], stats["tune"] = np.arange(n_chain)[:, None], tune
    for name, ours in (
        ("step_size", "step_size"), ("mean_tree_accept", "accept"), ("tree_size", "n_steps"),
        ("diverging", "diverging"), ("energy", "energy"), ("model_logp", "potential"),
    ):  # fmt: skip
        if ours in statistics:
            stats[name] = statistics[ours]
    stats["model_logp"] *= -1.0
    stats["depth"] = np.ceil(np.log2(stats["tree_size"] + 1.0))
    return chain.reshape(n_chain * n_draw, -1), stats.reshape(-1)


def _chain_catalog(chain, active, result: PatchResult) -> np.ndarray:
    names = (*result.bands, *SHAPE_COLUMNS)
    out = np.zeros(
        len(active), [("source_index", "i4")] + [(name, "f8", (len(chain),)) for name in names]
    )
    out["source_index"] = active["source_index"]
    values = chain.reshape(len(chain), len(active), len(names))
    for j, name in enumerate(names):
        out[name] = values[:, :, j].T
    out["ra"] += result.reference[0]
    out["dec"] += result.reference[1]
    return out


def _bounds_catalog(result: PatchResult, active, sources) -> np.ndarray:
    names = (*result.bands, *SHAPE_COLUMNS)
    out = np.zeros(len(active), [("source_index", "i4")] + [(name, "f8", (2,)) for name in names])
    out["source_index"] = active["source_index"]
    values = bounds_of(result, sources).reshape(len(active), len(names), 2)
    for j, name in enumerate(names):
        out[name] = values[:, j]
    out["ra"] += result.reference[0]
    out["dec"] += result.reference[1]
    return out


def _matrices(result: PatchResult, sources) -> dict[str, np.ndarray]:
    """Mass matrices and covariance in the order of the chain; rows of held parameters are 0."""
    columns = free_columns(result, sources)
    free = np.flatnonzero(columns >= 0)
    out = {}
    for name in ("mass_matrix_initial", "mass_matrix_final"):
        matrix = getattr(result, name)
        if matrix is None:
            continue
        # the inverse of a part of the covariance: what is left out is marginalised over
        covariance = np.linalg.inv(matrix)[np.ix_(columns[free], columns[free])]
        out[name] = np.zeros((len(columns), len(columns)))
        out[name][np.ix_(free, free)] = np.linalg.inv(covariance)
        if name == "mass_matrix_final":
            out["cov"] = np.zeros_like(out[name])
            out["cov"][np.ix_(free, free)] = covariance
    return out


@dataclass
class ForcephoSamples:
    """What a samples file of forcepho, or of `write_forcepho_samples`, holds.

    Attributes
    ----------
    chain : [T, N] draws, positions in degrees from `reference`.
    bands, shapes : names of the columns of a source, in order.
    reference : (ra, dec), deg.
    arrays : every data set by its name; those of the group `warmup` as "warmup/chain", ...
    attrs : attributes of the file.
    """

    chain: np.ndarray
    bands: list[str]
    shapes: list[str]
    reference: tuple[float, float]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    attrs: dict = field(default_factory=dict)

    @property
    def n_chain(self) -> int:
        """Chains that `chain` holds one after the other."""
        return int(self.attrs.get("n_chain", 1))


def read_forcepho_samples(path) -> ForcephoSamples:
    """Read a samples file in forcepho's layout.

    Raises
    ------
    InputError
        When the file is missing, damaged or foreign, or its arrays do not belong together.
    """
    where = f"samples file {path}"
    arrays: dict[str, np.ndarray] = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            arrays[name] = node[()]

    with open_hdf5(path, "samples file") as file:
        try:
            file.visititems(visit)
            attrs = dict(file.attrs)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{where} cannot be read ({str(error).splitlines()[0]})") from None
    for name in _NEEDED:
        if name not in arrays:
            found = ", ".join(sorted(arrays)) or "nothing"
            raise InputError(f"{where} has no data set '{name}'; it holds {found}")
    chain, active = arrays["chain"], arrays["active"]
    if chain.dtype.kind != "f" or chain.ndim != 2:
        raise InputError(f"{where}: 'chain' is {chain.dtype} {chain.shape}, expected [draw, npar]")
    if active.dtype.names is None:
        raise InputError(f"{where}: 'active' has dtype {active.dtype}, expected a catalogue")
    bands, shapes = ([n.decode() for n in arrays[k]] for k in ("bandlist", "shapenames"))
    width = len(active) * (len(bands) + len(shapes))
    if chain.shape[1] != width:
        raise InputError(
            f"{where}: 'chain' has {chain.shape[1]} columns, expected {width} for {len(active)} "
            f"sources in {len(bands)} bands"
        )
    reference = np.asarray(arrays["reference_coordinates"], float).ravel()
    if len(reference) != 2:
        raise InputError(f"{where}: 'reference_coordinates' holds {len(reference)} numbers, not 2")
    return ForcephoSamples(chain, bands, shapes, tuple(reference.tolist()), arrays, attrs)
