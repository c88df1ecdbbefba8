"""The pictures of docs/superscene.md: python docs/superscene_pictures.py (writes docs/images)."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Circle

from jaxpho.data.catalog import Peak
from jaxpho.superscene.policy import SceneOptions
from jaxpho.superscene.state import new_state

OUT = Path(__file__).resolve().parent / "images"
DEC, SIDE, N = 0.0, 60.0, 180


def field():
    """A crowded field with one big galaxy; positions in arcsec."""
    rng = np.random.default_rng(12)
    x, y = rng.uniform(0, SIDE, (2, N))
    radius = np.clip(1.4 + 0.7 * rng.pareto(2.5, N), 1.4, 4.0)
    flux = 10 ** rng.uniform(0, 2, N)
    x[0], y[0], radius[0], flux[0] = 30.0, 30.0, 13.0, 1e4
    peaks = [
        Peak(i, "point", 10 + a / 3600, DEC + b / 3600, flux={("flux", "g"): float(f)})
        for i, (a, b, f) in enumerate(zip(x, y, flux, strict=True))
    ]
    options = SceneOptions(target=100, per_patch=25, max_active=6, patch_radius=8.0, big_links=12)
    return x, y, radius, new_state(peaks, ["g"], radius, options)


def circles(axis, x, y, r, **style):
    """Circles at positions, in one collection."""
    axis.add_collection(
        PatchCollection([Circle(c, s) for *c, s in zip(x, y, r, strict=True)], **style)
    )


def show(axis, x, y, radius, patches, title):
    """A round: active sources in the colour of their patch, fixed ones hatched in grey."""
    circles(axis, x, y, radius, facecolor="none", edgecolor="0.8", linewidth=0.6)
    fixed = sorted({i for p in patches for i in p.fixed})
    circles(axis, x[fixed], y[fixed], radius[fixed], facecolor="0.85", edgecolor="0.5", alpha=0.8)
    for k, patch in enumerate(patches):
        at, colour = patch.active, plt.get_cmap("tab20")(k % 20)
        circles(axis, x[at], y[at], radius[at], facecolor=colour, edgecolor=colour, alpha=0.6)
        axis.plot(x[at[0]], y[at[0]], "k.", markersize=4)
    axis.set(xlim=(-3, SIDE + 3), ylim=(-3, SIDE + 3), aspect="equal", title=title,
             xlabel="arcsec")  # fmt: skip


def play(state):
    """All rounds; a patch's outcome does not matter for the plan."""
    rounds, first, most = [], 0, []
    while patches := state.plan(len(rounds), first):
        rounds.append(patches)
        first += len(patches)
        for patch in patches:
            state.check_in(patch, [[1.0, 1.0, 1.0]] * len(patch.active))
        most.append(state.iterations.copy())
    return rounds, most


def main():
    """Write both pictures."""
    x, y, radius, state = field()
    rounds, iterations = play(state)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), constrained_layout=True)
    for k, axis in enumerate(axes):
        n = len(rounds[k])
        text = f"round {k}: {n} patch{'es' * (n != 1)}"
        show(axis, x, y, radius, rounds[k], text)
    axes[0].set_ylabel("arcsec")
    figure.savefig(OUT / "superscene_rounds.png", dpi=110)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), constrained_layout=True)
    table = np.array([np.clip(n, 0, state.options.target) for n in iterations]) / 100
    axes[0].plot(np.arange(1, len(rounds) + 1), [100 * row.mean() for row in table], "k.-")
    axes[0].plot(np.arange(1, len(rounds) + 1), [100 * (row >= 1).mean() for row in table], "C0.-")
    axes[0].legend(["iterations done", "sources at the target"])
    axes[0].set(xlabel="rounds", ylabel="%", ylim=(0, 105))
    axes[1].bar(range(len(rounds)), [len(r) for r in rounds], color="0.6")
    axes[1].set(xlabel="round", ylabel="patches that can run at once")
    figure.savefig(OUT / "superscene_progress.png", dpi=110)
    counts = np.bincount(state.patches)
    print(f"{len(rounds)} rounds, {sum(map(len, rounds))} patches; patches per source: "
          f"median {np.median(state.patches):.0f}, most {len(counts) - 1}")  # fmt: skip


if __name__ == "__main__":
    main()
