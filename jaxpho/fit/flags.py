"""The registry of quality flags: one bit, one name, one meaning.

The catalogue column `flags`, its decoder and the documentation all read this table. Bits are
never renumbered, so that old catalogues stay readable; new flags are appended.
"""

from __future__ import annotations

from typing import NamedTuple


class Flag(NamedTuple):
    """One quality flag: its bit number, its name in tables, and what it tells the user."""

    bit: int
    name: str
    meaning: str

    @property
    def value(self) -> int:
        """The integer that this flag adds to a bit mask."""
        return 1 << self.bit


_TABLE = (
    ("at_bound", "a parameter of the source lies at the edge of its allowed range"),
    (
        "no_convergence",
        "the optimiser had not converged, or a later patch failed and earlier fits stand",
    ),
    ("divergences", "the sampler had divergent transitions in this patch"),
    ("low_ess", "fewer effective samples of a parameter than asked for (sample.min_ess)"),
    ("high_rhat", "the chains disagree about a parameter more than allowed (sample.max_rhat)"),
    (
        "partial_coverage",
        "masks or edges take a large part of the source in all exposures of a band",
    ),
    ("no_data", "no usable pixel under the source: it was not fitted"),
    ("bad_psf", "the PSF mixture is a poor description of the given PSF"),
    ("blended", "another source overlaps: their fluxes are strongly correlated"),
    ("nonfinite", "a value or an error of the source is not finite"),
    ("poor_fit", "chi2 within the source's area is far above its expectation"),
    ("failed", "the fit of the patch raised an error: values are the starting values"),
    (
        "bad_exposure",
        "an exposure that covers the source, or may as its WCS is unknown, was left out",
    ),
    (
        "prior_dominated",
        "the data hardly constrain a parameter: its error is that of the prior (parameters with "
        "a normal or log_normal prior of the configuration do not count)",
    ),
    ("timeout", "the patch took longer than allowed (engine.limit) and was stopped"),
    (
        "unfinished",
        "the run was stopped before the source had all its fits: values are of the patches so far, "
        "or starts",
    ),
    ("piled_up", "draws of a parameter pile up at the edge of its allowed range"),
    (
        "low_ebfmi",
        "a chain of the patch did not explore its energies (E-BFMI below 0.3): tails may be missed",
    ),
    ("over_budget", "sampling ended because its gradients ran out (sample.max_gradients)"),
    (
        "poor_approximation",
        "the draws are those of an approximation (sample.method laplace or svi), which their "
        "importance ratios show to be far from the posterior (pareto_k above 0.7)",
    ),
    (
        "type_uncertain",
        "another type fits nearly as well as the one that type `auto` chose (fit.type_tie)",
    ),
    (
        "model_mismatch",
        "the model does not describe the pixels of the source: p_value below 1e-4, or "
        "residual_peak beyond 6 sigma (bright galaxies, which no profile fits perfectly, often "
        "have it)",
    ),
)

FLAGS: tuple[Flag, ...] = tuple(Flag(bit, name, text) for bit, (name, text) in enumerate(_TABLE))
BY_NAME: dict[str, Flag] = {flag.name: flag for flag in FLAGS}


def bit(name: str) -> int:
    """The bit mask value of a flag, by name; KeyError for an unknown name."""
    return BY_NAME[name].value


def encode(names) -> int:
    """The bit mask with the named flags set."""
    mask = 0
    for name in names:
        mask |= bit(name)
    return mask


def decode(mask) -> list[str]:
    """Names of the flags set in a bit mask, lowest bit first.

    Bits that this version does not know are shown as "bit<i>" instead of being dropped.
    """
    mask = int(mask)
    known = {flag.bit: flag.name for flag in FLAGS}
    return [known.get(i, f"bit{i}") for i in range(mask.bit_length()) if mask >> i & 1]


def table() -> str:
    """The registry as a Markdown table, for the documentation."""
    lines = ["| bit | value | name | meaning |", "|---|---|---|---|"]
    lines += [f"| {f.bit} | {f.value} | {f.name} | {f.meaning} |" for f in FLAGS]
    return "\n".join(lines)
