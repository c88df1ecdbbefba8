"""Star or galaxy, and which profile: the type of a source by penalised chi2 (type `auto`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxpho.core.sources import AUTO_TYPES, SOURCE_TYPES
from jaxpho.fit import flags
from jaxpho.fit.optimize import Optimum

TOLERANCE = 0.01
"""Of chi2, at which fits of candidates stop: a hundredth of what a type is told apart by."""
CONCENTRATED = 1.5
"""Factor on the size that a candidate of index 4 starts with, where the fit so far has n < 2.5."""


@dataclass(frozen=True)
class Choice:
    """How the type of one source was chosen.

    Attributes
    ----------
    type : str
    chi2 : dict
        type -> chi2 of the patch with this type minus that with the chosen one; where pixels of
        correlated noise are fitted as independent, in units of what independent ones would tell.
    score : dict
        The same with the penalty for the parameters of each.
    """

    type: str
    chi2: dict[str, float]
    score: dict[str, float]

    @property
    def margin(self) -> float:
        """Penalised chi2 of the second best type minus that of the chosen one."""
        return min(v for k, v in self.score.items() if k != self.type)


def is_auto(peak) -> bool:
    """Whether the fit chooses the type: held neighbours keep what they have."""
    return getattr(peak, "auto", False) and "all" not in peak.fixed


def decide(
    chi2: dict[str, float], parameters: dict[str, int], penalty: float, loss: float = 1.0
) -> Choice:
    """The type of lowest chi2 / loss + penalty x parameters.

    Parameters
    ----------
    chi2, parameters : dict
        By type.
    penalty : float
        Per free parameter.
    loss : float
        How many times larger correlated noise makes differences of chi2 that mean nothing
        (`jaxpho.fit.treatment.NoiseTreatment.loss`).
    """
    chi2 = {k: v / loss for k, v in chi2.items()}
    score = {k: v + penalty * parameters[k] for k, v in chi2.items()}
    best = min(score, key=score.get)
    return Choice(
        best,
        {k: v - chi2[best] for k, v in chi2.items()},
        {k: v - score[best] for k, v in score.items()},
    )


def padding_of(peaks: Sequence) -> dict[str, int]:
    """Components of each profile that serve all candidates, so that they share one program."""
    out = {"sersic": 0, "point": 0}
    for peak in peaks:
        for component in SOURCE_TYPES[peak.type].components:
            out[component.profile] += 1
        out["point"] += is_auto(peak)
    return out


def choose_types(
    peaks: Sequence, make: Callable, penalty: float | None
) -> tuple[list, dict[tuple, float], list[Choice | None]]:
    """Choose the types of all sources of a patch that are `auto`.

    All begin as Sersic profiles of free index. From the brightest to the faintest, each is fitted
    as every other candidate with all parameters of the patch free, and keeps the best; so its
    neighbours have their own type or, until it is their turn, the most flexible one.

    Parameters
    ----------
    peaks : sequence of Peak
    make : callable
        ``make(peaks)`` gives a fitter (of `jaxpho.fit.driver`) of these sources.
    penalty : float, optional
        Per parameter; default the logarithm of the number of unmasked pixels in the area of the
        source (Schwarz 1978, Ann. Statist. 6, 461).

    Returns
    -------
    peaks : list of Peak
        With the chosen types.
    values : dict
        Label -> value at their optimum.
    choices : list of Choice or None
    """
    peaks = list(peaks)
    fitter = make(peaks)
    best, _ = fitter.best()
    values = fitter.named(best.theta)
    areas = fitter.areas(best, fitter.pixels(best))
    first = best
    choices: list[Choice | None] = [None] * len(peaks)
    auto = [s for s, peak in enumerate(peaks) if is_auto(peak)]
    light = {s: _brightness(values, s) for s in auto}
    for s in sorted(auto, key=lambda s: -light[s]):
        fits = {"sersic": (peaks, values, best)}
        for kind in AUTO_TYPES:
            if kind not in fits:
                fits[kind] = _refit(peaks, s, kind, values, make)
        nearest = min(("exp", "dev"), key=lambda k: fits[k][2].chi2)
        if fits[nearest][2].chi2 < best.chi2 - TOLERANCE:
            # a special case cannot be better: the fit of free index had stopped elsewhere
            index = {(s, "sersic", ""): {"exp": 1.0, "dev": 4.0}[nearest]}
            again = _refit(peaks, s, "sersic", fits[nearest][1] | index, make)
            if again[2].chi2 < best.chi2:
                fits["sersic"] = again
        counts = {k: sum(owner == s for owner, _, _ in fit[1]) for k, fit in fits.items()}
        cost = np.log(max(areas.npix[s], 2)) if penalty is None else penalty
        chi2 = {k: fit[2].chi2 for k, fit in fits.items()}
        choices[s] = decide(chi2, counts, float(cost), fitter.loss(first, s))
        peaks, values, best = fits[choices[s].type]
    return peaks, values, choices


def resolve(peaks: Sequence, options, make: Callable) -> tuple[Sequence, dict, list]:
    """Peaks with all types chosen, values to start from (or none), and the choices.

    ``make(peaks, options, least)`` gives a fitter.
    """
    if not any(is_auto(peak) for peak in peaks):
        return peaks, {}, [None] * len(peaks)
    # what types are told apart by is not to depend on which PSF mixtures each of them may use
    plain = replace(options, reduced_psf="never")
    least = padding_of(peaks)
    least["parameters"] = make(peaks, plain, least).n
    return choose_types(peaks, lambda p: make(p, plain, least), options.type_penalty)


def uncertain(choices: Sequence[Choice | None], tie: float) -> np.ndarray:
    """[S] flags of the sources whose type is nearly a tie."""
    near = [c is not None and c.margin < tie for c in choices]
    return np.where(near, flags.bit("type_uncertain"), 0).astype(np.int64)


def _brightness(values: dict, s: int) -> float:
    return max((v for (o, name, _), v in values.items() if o == s and name == "flux"), default=0.0)


def _refit(peaks, s: int, kind: str, values: dict, make) -> tuple[list, dict, Optimum]:
    """The patch with source s of another type, from the values of the fit so far."""
    peaks = list(peaks)
    peaks[s] = replace(peaks[s], type=kind)
    fitter = make(peaks)
    start = dict(values)
    flatter = start.get((s, "sersic", ""), 4.0) < 2.5
    if kind == "dev" and flatter and (s, "rhalf", "") in start:
        start[s, "rhalf", ""] *= CONCENTRATED
    best = fitter.optimize(fitter.theta_of(start), tolerance=TOLERANCE)
    return peaks, fitter.named(best.theta), best


def messages_of(peaks: Sequence, choices: Sequence[Choice | None]) -> list[str]:
    """One line for each choice."""
    out = []
    for peak, choice in zip(peaks, choices, strict=True):
        if choice is not None:
            others = ", ".join(f"{k} {v:+.1f}" for k, v in choice.chi2.items() if k != choice.type)
            out.append(f"source {peak.id} is fitted as {choice.type} (chi2 as {others})")
    return out
