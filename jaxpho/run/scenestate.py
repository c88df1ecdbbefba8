"""The superscene of a run: the state that its rounds of patches are planned from."""

from __future__ import annotations

import hashlib
import json

from jaxpho.config import Config
from jaxpho.run.field import Field
from jaxpho.schema import to_plain
from jaxpho.superscene.policy import Patch, SceneOptions
from jaxpho.superscene.state import CatalogState, new_state

SWEEPS, DRAWN_SWEEPS = 2, 4
"""Times that a source with neighbours in other patches is optimised, and drawn from."""
ELSEWHERE = ("output", "root", "engine", "products", "psf_cache", "threads", "seed")
"""Sections that the outcome does not depend on, or that are known otherwise."""


def scene_options(config: Config) -> SceneOptions:
    """How the patches of a run are chosen.

    An iteration is a draw of each chain; without draws it is an optimisation.
    """
    p, drawn = config.patches, config.sample.method != "none"
    sweeps = p.sweeps or (DRAWN_SWEEPS if drawn else SWEEPS)
    size = config.sample.num_samples if drawn else 1
    return SceneOptions(
        target=sweeps * size,
        per_patch=size,
        max_active=p.max_active,
        patch_radius=p.span or 2 * max(p.max_radius, p.min_radius),
        big_links=p.big_links,
        optimize=drawn and p.optimize_first,
        neighbours=p.neighbours == "fixed",
        draws=drawn,
    )


def scene_of(config: Config, found: Field) -> CatalogState:
    """The state of a field before its first round."""
    return new_state(
        found.peaks, config.bands, found.radius, scene_options(config), excluded=found.lost,
        fit=config.fit,
    )  # fmt: skip


def setup_of(config: Config) -> str:
    """Fingerprint of the options that the outcome depends on, besides catalogue and seed."""
    values = {k: v for k, v in to_plain(config).items() if k not in ELSEWHERE}
    values["sample"] = {k: v for k, v in values["sample"].items() if k != "save_every"}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def rehearse(state: CatalogState) -> list[Patch]:
    """All patches of a run in which nothing goes wrong, from a state of its own: it is used up."""
    out: list[Patch] = []
    number = 0
    while patches := state.plan(number, len(out)):
        for patch in patches:
            state.iterations[patch.active] += patch.iterations
            state.patches[patch.active] += 1
        out += patches
        number += 1
    return out
