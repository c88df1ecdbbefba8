"""How long one pixel x Gaussian evaluation takes: chi2, chi2 + gradient, Fisher matrix.

    python benchmarks/kernel.py [--patches small medium] [--modes fourth] [--tiles 1 2 4]

Patches are synthetic, with 36 Gaussians per source: small = 1 source, 1 exposure of 64x64;
medium = 4 sources, 8 exposures of 96x80; large = 15 sources, 18 exposures of 128x128. Timed in the
same process: the loops of `reference.py`, compiled by numba, to which ratios are taken, and the
naive form, `jax.grad` through images of all Gaussians at once. Run it with OMP_NUM_THREADS=1 and
pinned to a core (taskset -c 0) for times per core.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from common import compiled, environment, finish, measure, parser, peak_memory, table  # noqa: E402
from synthetic_patch import make  # noqa: E402

from jaxpho.core.fisher import normal_equations  # noqa: E402
from jaxpho.core.gaussians import Gaussians, evaluate  # noqa: E402
from jaxpho.core.likelihood import delta_chi2  # noqa: E402
from jaxpho.core.scene import row_gaussians, scene_rows  # noqa: E402

PATCHES = {
    "small": {"types": ("sersic",), "n_bands": 1, "exposures_per_band": 1, "shape": (64, 64)},
    "medium": {
        "types": ("sersic",) * 4,
        "n_bands": 2,
        "exposures_per_band": 4,
        "shape": (80, 96),
    },
    "large": {
        "types": ("sersic",) * 15,
        "n_bands": 3,
        "exposures_per_band": 6,
        "shape": (128, 128),
    },
}


def build(name, tiles_per_block):
    """A patch of 36 Gaussians per source (12 x 3), packed with so many tiles a block."""
    synthetic = make(
        **PATCHES[name],
        spread=2.0,
        n_psf=3,
        mixture="k12",
        nuisances=False,
        simulate=False,
        masked=0.0,
        tiles_per_block=tiles_per_block,
        pad=False,
    )
    evaluations = sum(t.data.size for t in synthetic.tiles) * 36 * len(synthetic.types)
    return synthetic, evaluations


def functions(synthetic, mode, width):
    """The three fused passes as functions of theta."""
    scene, patch, mixture = synthetic.scene, synthetic.patch, synthetic.mixture

    def chi2(theta):
        rows = scene_rows(theta, scene, patch)
        gauss = row_gaussians(rows, scene, patch, mixture)
        return delta_chi2(gauss, rows.sky, patch, None, mode, width).high.sum()

    return {
        "chi2": chi2,
        "gradient": jax.value_and_grad(chi2),
        "fisher": lambda theta: normal_equations(theta, scene, patch, mixture, mode=mode)[1:],
    }


def naive(synthetic):
    """chi2 and gradient as one would write them first: second-order pixels, plain autodiff."""
    scene, patch, mixture = synthetic.scene, synthetic.patch, synthetic.mixture
    x, y = (jnp.asarray(a, jnp.float32) for a in (patch.xpix(False), patch.ypix(False)))

    def block(g, x, y, data, ierr):
        g = Gaussians(*(f[:, None] for f in g))
        det = g.cxx * g.cyy - g.cxy**2
        dx, dy = x - g.x, y - g.y
        vx, vy = (g.cyy * dx - g.cxy * dy) / det, (g.cxx * dy - g.cxy * dx) / det
        factor = 1.0 + (vx**2 + vy**2 - (g.cxx + g.cyy) / det) / 24.0
        return (((data - (evaluate(g, x, y) * factor).sum(0)) * ierr) ** 2).sum()

    def chi2(theta):
        gauss = row_gaussians(scene_rows(theta, scene, patch), scene, patch, mixture)
        gauss = gauss[patch.block_exposure]
        return jax.vmap(block)(gauss, x, y, patch.data, patch.ierr).sum()

    return jax.value_and_grad(chi2)


def loops(synthetic, theta):
    """chi2 and gradient by the Gaussians with the loops of `reference.py`."""
    from reference import chi2_and_gradient

    scene, patch, mixture = synthetic.scene, synthetic.patch, synthetic.mixture
    gauss = row_gaussians(scene_rows(theta, scene, patch), scene, patch, mixture)
    pixels = patch.xpix(False), patch.ypix(False), patch.data, patch.ierr
    given = [np.asarray(gauss), np.asarray(patch.block_exposure)]
    given += [np.ascontiguousarray(a, np.float32) for a in pixels]
    return lambda: chi2_and_gradient(*given)[1]


def main():
    """Measure and print."""
    p = parser(__doc__.splitlines()[0])
    p.add_argument("--patches", nargs="+", choices=PATCHES, default=["small", "medium", "large"])
    p.add_argument("--modes", nargs="+", default=["second_order", "fourth", "covariance"])
    p.add_argument("--tiles", nargs="+", type=int, default=[2], help="tiles per block")
    p.add_argument("--width", type=int, default=1, help="blocks a step")
    p.add_argument("--passes", nargs="+", default=["chi2", "gradient", "fisher"])
    p.add_argument("--no-naive", action="store_true")
    p.add_argument("--no-reference", action="store_true", help="without the loops (needs numba)")
    args = p.parse_args()
    print(environment())
    rows, figures = [], []
    for name in args.patches:
        calls, info = {}, {}
        for tiles in args.tiles:
            synthetic, evaluations = build(name, tiles)
            theta = jnp.asarray(synthetic.theta, jnp.float32)
            todo = {
                (mode, kind): f
                for mode in args.modes
                for kind, f in functions(synthetic, mode, args.width).items()
                if kind in args.passes
            }
            if not args.no_naive and name != "large" and tiles == args.tiles[0]:
                todo["naive", "gradient"] = naive(synthetic)
            for (mode, kind), f in todo.items():
                executable, info[mode, kind, tiles] = compiled(f, theta)
                calls[mode, kind, tiles] = lambda run=executable, theta=theta: run(theta)
        if not args.no_reference:
            calls["loops", "gradient", ""] = loops(synthetic, theta)
            info["loops", "gradient", ""] = {"compile": np.nan}
        times = measure(calls, args.repeats)
        base = [[t["cpu"][1] for (mode, *_), t in times.items() if mode == m]
                for m in ("loops", "naive")]  # fmt: skip
        for key, t in times.items():
            ns = [1e9 * v / evaluations for v in (*t["cpu"], t["wall"][1])]
            memory = info[key].get("temporaries", np.nan) / 1e6
            ratios = [b[0] / t["cpu"][1] if b and key[1] == "gradient" else "" for b in base]
            rows.append(
                [name, *key, *(round(v, 3) for v in ns), *ratios, memory, info[key]["compile"]]
            )
            figures.append({"patch": name, "key": key, "seconds": t, **info[key]})
    header = ["patch", "mode", "pass", "tiles", "25 %", "median [ns]", "75 %", "wall [ns]"]
    header += ["loops / this", "naive / this", "temporaries [MB]", "compile [s]"]
    print(table(header, rows))
    print(f"peak memory {peak_memory():.0f} MB")
    finish(args, {"results": figures})


if __name__ == "__main__":
    main()
