"""One source's posterior from all the patches that it was fitted in, as a result of its own.

In a field too large for one joint fit, a source is drawn in several patches, with its neighbours at
other draws each time (`jaxpho.superscene`). All these draws together are its posterior; its value
is the mean of the optima, over which the draws of its neighbours average out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxpho.fit import flags
from jaxpho.fit.diagnostics import diagnose
from jaxpho.fit.result import PatchResult
from jaxpho.output.derived import sky_position

_BY_PARAMETER = ("prior_dominated", "piled_up", "rhat", "ess", "ess_bulk", "ess_tail")
ANY = flags.encode(["divergences", "low_ebfmi", "over_budget", "poor_approximation", "piled_up"])
"""Flags of a source that one of its patches is enough for."""
ARCSEC = 3600.0


def source_result(
    parts: Sequence[tuple[PatchResult, int]],
    patch: int | None = None,
    min_ess: float = 0.0,
    max_rhat: float = np.inf,
) -> PatchResult:
    """The fit of one source alone.

    Parameters
    ----------
    parts : the patches that it was active in, in their order, and its number in each. Optima that
        came before the draws may be among them: they tell how its type was chosen.
    patch : number that the result is to have; by default that of the last one.
    min_ess, max_rhat : of `SampleOptions`: with several parts, whether all draws together suffice
        is flagged here.

    Returns
    -------
    PatchResult
        With one source and its own parameters; draws [chain, draw, npar] of all patches that have
        any, positions from the reference of the last one.
    """
    drawn = [part for part in parts if part[0].samples is not None]
    used = drawn or parts[-1:]
    last, s = used[-1]
    own = [k for k, (owner, _, _) in enumerate(last.labels) if owner == s]
    labels = [(0, *last.labels[k][1:]) for k in own]
    choices = [result.choices[i] for result, i in parts if result.choices[i] is not None]
    out = replace(
        last,
        patch_id=last.patch_id if patch is None else patch,
        source_ids=[last.source_ids[s]],
        types=[last.types[s]],
        labels=labels,
        theta=np.mean([_moved(r, r.theta, i, labels, last) for r, i in used], axis=0),
        covariance=np.asarray(last.covariance)[np.ix_(own, own)],
        fixed={(0, *key[1:]): v for key, v in last.fixed.items() if key[0] == s},
        at_bound=np.asarray(last.at_bound)[own],
        flags=np.asarray(last.flags)[s : s + 1],
        choices=[choices[-1] if choices else None],
        diagnostics={
            k: np.asarray(v)[own] if k in _BY_PARAMETER else v for k, v in last.diagnostics.items()
        },
        **{k: np.asarray(getattr(last, k))[s : s + 1] for k in (
            "source_chi2", "source_p_value", "source_residual_peak", "source_npix", "source_nexp",
            "source_band_npix",
        )},
        **{k: None if getattr(last, k) is None else np.asarray(getattr(last, k))[own]
           for k in ("start", "bounds")},
        samples=None, statistics={}, warmup=None, warmup_statistics={}, mass_matrix_initial=None,
        mass_matrix_final=None, astrometry={}, pixels={}, n_active=1,
    )  # fmt: skip
    if drawn:
        _add_draws(out, used, labels, last)
    if len(drawn) > 1:
        _judge(out, used, min_ess, max_rhat)
    if choices:
        mask = out.flags[0] & ~flags.bit("type_uncertain")
        tied = [int(r.flags[i]) for r, i in parts if r.choices[i] is not None][-1]
        out.flags = np.array([mask | tied & flags.bit("type_uncertain")], np.int64)
    return out


def _moved(result: PatchResult, values, s: int, labels, to: PatchResult) -> np.ndarray:
    """Values [..., npar] of a source in the order of labels, positions from another reference."""
    values = np.asarray(values)
    columns = [result.index(s, name, band) for _, name, band in labels]
    if result.reference == to.reference:
        return values[..., columns]
    out = np.asarray(values[..., columns], float)
    names = [name for _, name, _ in labels]
    k = [names.index(name) if name in names else None for name in ("ra", "dec")]
    zero = np.zeros(out.shape[:-1])
    ra, dec = sky_position(result.reference, *(zero if i is None else out[..., i] for i in k))
    east = ((ra - to.reference[0] + 180.0) % 360.0 - 180.0) * np.cos(np.deg2rad(to.reference[1]))
    for i, offset in zip(k, (east, dec - to.reference[1]), strict=True):
        if i is not None:
            out[..., i] = offset * ARCSEC
    return out


def _add_draws(out: PatchResult, used, labels, last: PatchResult) -> None:
    out.samples = np.concatenate([_moved(r, r.samples, i, labels, last) for r, i in used], axis=1)
    names = set.intersection(*(set(r.statistics) for r, _ in used))
    out.statistics = {
        k: np.concatenate([np.asarray(r.statistics[k]) for r, _ in used], axis=1)
        for k in last.statistics if k in names
    }  # fmt: skip


def _judge(out: PatchResult, used, min_ess: float, max_rhat: float) -> None:
    """Diagnostics and flags of all draws together."""
    found = out.diagnostics
    worth = diagnose(out.samples)
    found |= {"rhat": worth.rhat, "ess": worth.ess, "ess_bulk": worth.bulk, "ess_tail": worth.tail}
    for name in ("divergences", "gradients", "warmup_gradients"):
        if name in found:
            found[name] = sum(r.diagnostics.get(name, 0) for r, _ in used)
    if "ebfmi" in found:
        found["ebfmi"] = np.min([r.diagnostics["ebfmi"] for r, _ in used], axis=0)
    if "piled_up" in found:
        found["piled_up"] = np.any(
            [_moved(r, r.diagnostics["piled_up"], i, out.labels, r) for r, i in used], axis=0
        )
    mask = int(out.flags[0])
    for result, i in used:
        mask |= int(result.flags[i]) & ANY
    counts = np.array([out.measured(0, band) for _, _, band in out.labels], bool)
    mask &= ~flags.encode(["low_ess", "high_rhat"])
    if (counts & ~(worth.ess >= min_ess)).any():
        mask |= flags.bit("low_ess")
    if (counts & ~(worth.rhat <= max_rhat)).any():
        mask |= flags.bit("high_rhat")
    out.flags = np.array([mask], np.int64)
