"""What a sampling came to: for the log, the flags and the catalogue."""

from __future__ import annotations

import numpy as np

from jaxpho.fit import quality
from jaxpho.fit.approximate import POOR_K
from jaxpho.fit.chains import DIVERGENT
from jaxpho.fit.diagnostics import LOW_EBFMI
from jaxpho.fit.draws import APPROXIMATE, SCALARS, Draws
from jaxpho.fit.optimize import Optimum
from jaxpho.fit.options import SampleOptions
from jaxpho.fit.parameters import ParameterTable


def diagnostics(optimum: Optimum, draws: Draws | None, table: ParameterTable) -> dict:
    """Numbers, and arrays by parameter (of `ebfmi` by chain), of a fit and its sampling."""
    out = {
        "converged": optimum.converged,
        "iterations": optimum.iterations,
        "evaluations": optimum.evaluations,
    }
    if draws is not None:
        n = len(table.parameters)
        out |= {k: getattr(draws, k) for k in SCALARS}
        out |= {"rhat": draws.rhat[:n], "ess": draws.ess[:n], "ebfmi": draws.ebfmi}
        out |= {"ess_bulk": draws.worth.bulk[:n], "ess_tail": draws.worth.tail[:n]}
        out["piled_up"] = quality.piled_up(table, draws.theta[..., :n])
    return out


def flags_of_patch(draws: Draws) -> list[str]:
    """Flags that a sampling gives to all sources of a patch."""
    out = []
    if draws.divergences > DIVERGENT * draws.theta.shape[0] * draws.theta.shape[1]:
        out.append("divergences")
    if np.nanmin(draws.ebfmi, initial=np.inf) < LOW_EBFMI:
        out.append("low_ebfmi")
    if draws.over_budget:
        out.append("over_budget")
    if draws.pareto_k > POOR_K:
        out.append("poor_approximation")
    return out


def missed(table: ParameterTable, areas, draws: Draws, sampling: SampleOptions):
    """[n] bool each: parameters whose ESS and R-hat miss the targets; None without draws.

    The flux in a band where a source has no pixels is not measured, and does not count. Draws of an
    approximation are independent: how many they are is no question of chains, and none is missed.
    """
    bands = list(areas.bands)
    counts = np.array(
        [
            not (isinstance(p.owner, int) and p.band)
            or areas.band_npix[p.owner, bands.index(p.band)] > 0
            for p in table.parameters
        ],
        bool,
    )
    n = len(table.parameters)
    if draws.method in APPROXIMATE:
        counts[:] = False
    return counts & ~(draws.ess[:n] >= sampling.min_ess), counts & ~(
        draws.rhat[:n] <= sampling.max_rhat
    )


def messages(table, peaks, areas, draws: Draws, sampling: SampleOptions) -> list[str]:
    """What was spent, and which sources missed the targets."""
    n = len(table.parameters)
    worst = (
        f"min bulk ESS {np.nanmin(draws.worth.bulk[:n]):.0f}, min tail ESS "
        f"{np.nanmin(draws.worth.tail[:n]):.0f}, max R-hat {np.nanmax(draws.rhat[:n]):.3f}"
    )
    if draws.method in APPROXIMATE:
        number = draws.theta.shape[0] * draws.theta.shape[1]
        text = [
            f"{number} independent draws of an approximation ({draws.method}), {draws.gradients} "
            "gradients"
        ]
    else:
        text = [
            f"{draws.rounds} rounds of {draws.method}, {draws.gradients} gradients after "
            f"{draws.warmup_gradients} of warm-up, {worst}, {draws.divergences} divergences, "
            f"min E-BFMI {np.min(draws.ebfmi):.2f}"
        ]
    if draws.redone:
        text.append(f"{draws.redone} rounds were done again with a smaller step: divergences")
    if draws.over_budget:
        text.append(f"WARNING sampling ended after sample.max_gradients = {sampling.max_gradients}")
    if draws.pareto_k > POOR_K:
        text.append(
            f"WARNING the approximation '{draws.method}' is far from the posterior (pareto_k "
            f"{draws.pareto_k:.2f}, above {POOR_K:g}); sample.method: nuts is exact"
        )
    piled = quality.piled_up(table, draws.theta[..., :n])
    if piled.any():
        names = _names(table, peaks, piled, parameters=True)
        text.append(f"draws pile up at the edge of the allowed range: {', '.join(names)}")
    low, high = missed(table, areas, draws, sampling)
    more = "sample.max_gradients" if draws.over_budget else "sample.max_rounds"
    for bad, what in (
        (low, f"fewer than {sampling.min_ess:g} effective samples (sample.min_ess)"),
        (high, f"R-hat above {sampling.max_rhat:g} (sample.max_rhat)"),
    ):
        names = _names(table, peaks, bad)
        if names:
            text.append(
                f"WARNING {what} after {draws.rounds} of {sampling.max_rounds} rounds: "
                f"{', '.join(names)}; more {more} help"
            )
    return text


def _names(table, peaks, which, parameters: bool = False) -> list[str]:
    """Sources (or exposures) of the marked parameters, each once; or the parameters themselves."""
    names = {}
    for p, marked in zip(table.parameters, which, strict=True):
        if marked:
            owner = str(peaks[p.owner].id) if isinstance(p.owner, int) else str(p.owner[1])
            own = f"{owner} {p.name}" + (f" {p.band}" if p.band else "")
            names[own if parameters else owner] = True
    return list(names)
