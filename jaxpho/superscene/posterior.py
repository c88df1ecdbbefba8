"""The posterior of a source: all its draws, over all the patches that it was active in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxpho.errors import InputError
from jaxpho.output.derived import sky_position
from jaxpho.output.samples import read_samples


def draws_of(folder, patches: Sequence[str], source) -> dict[tuple[str, str], np.ndarray]:
    """The draws of a source, patch after patch.

    Parameters
    ----------
    folder : with the files of samples.
    patches : names of the patches, in order (`Ledger.patches_of`).
    source : its id.

    Returns
    -------
    dict
        (parameter, band) -> [chain, draw]; band is "" for all but fluxes. Positions are in
        degrees, because every patch has another reference.

    Raises
    ------
    InputError
        When a file is missing, or has no draws of the source.
    """
    parts: list[dict] = []
    for name in patches:
        path = Path(folder) / f"patch{name}_samples.h5"
        result = read_samples(path)
        names = [str(name) for name in result.source_ids]
        if str(source) not in names or result.samples is None:
            raise InputError(f"{path}: expected draws of source {source}, found none")
        s = names.index(str(source))
        found = {(n, b): result.samples[..., k].astype(float)
                 for k, (owner, n, b) in enumerate(result.labels) if owner == s}  # fmt: skip
        shape = result.samples.shape[:2]
        for (owner, n, b), value in result.fixed.items():
            if owner == s:
                found[n, b] = np.full(shape, value)
        found["ra", ""], found["dec", ""] = sky_position(
            result.reference, found["ra", ""], found["dec", ""]
        )
        parts.append(found)
    if not parts:
        raise InputError(f"source {source}: no patch that it was fitted in is finished")
    return {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
