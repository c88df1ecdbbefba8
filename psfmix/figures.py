"""Diagnostic figures of PSF mixtures. The only module of the package that imports matplotlib."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from psfmix.apertures import light_within

# The stretch is linear below this part of the peak; residuals are shown to at least this much.
_LINEAR, _LEAST = 1e-4, 1e-3
_COLORS = ("#00c2d1", "#ffb000", "#6fdc6f", "#ff7ab6", "#b9a4ff", "#ff8c5a")
_SMALLEST_SIGMA = 0.02
# Half the side of the inset with all components, native px; narrower ones than this part of the
# picture are not drawn on it.
_CORE, _SEEN = 5.0, 0.1


def fit_figure(fit, image, title):
    """Target, model and residual, the radial profile, and encircled energy.

    Parameters
    ----------
    fit : MixtureFit
    image : array (ny, nx)
        The trimmed image that was fitted, in the fit's units.
    title : str

    Returns
    -------
    matplotlib Figure
    """
    figure = new_figure(15, 8.6)
    axes = figure.subplots(2, 3)
    model = fit.render()
    image = np.asarray(image, float)
    peak = np.nanmax(image)
    ny, nx = image.shape
    cx, cy = fit.center
    sides = np.array([-0.5 - cx, nx - 0.5 - cx, -0.5 - cy, ny - 0.5 - cy]) / fit.oversample
    norm = AsinhNorm(linear_width=_LINEAR * peak, vmin=-_LINEAR * peak, vmax=peak)
    for ax, picture, name in ((axes[0, 0], image, "PSF image"), (axes[0, 1], model, "mixture")):
        shown = ax.imshow(picture, origin="lower", extent=sides, norm=norm, cmap="magma")
        ax.set(title=name, xlabel="x [native pixel]", ylabel="y [native pixel]")
        bar = figure.colorbar(shown, ax=ax, shrink=0.8, label="flux per image pixel")
        decades = np.arange(np.ceil(np.log10(_LINEAR * peak)), np.log10(peak))
        bar.set_ticks([0, *10.0**decades], labels=["0", *(f"$10^{{{d:.0f}}}$" for d in decades)])
        bar.minorticks_off()
    _ellipses(axes[0, 1], fit.parameters, _SEEN * np.ptp(sides[:2]))
    # narrow components would cover the core of the whole
    core = axes[0, 1].inset_axes([0.01, 0.01, 0.4, 0.4], xticks=[], yticks=[])
    core.imshow(model, origin="lower", extent=sides, norm=norm, cmap="magma")
    half = min(_CORE, sides[1])
    core.set(xlim=(-half, half), ylim=(-half, half))
    core.text(0.05, 0.05, f"{2 * half:g} px", transform=core.transAxes, color="w", fontsize=8)
    core.spines[:].set_color("0.8")
    _ellipses(core, fit.parameters, 0)
    residual = 100 * (model - image) / peak
    limit = max(np.nanmax(np.abs(residual)), 100 * _LEAST)
    shown = axes[0, 2].imshow(
        residual, origin="lower", extent=sides, vmin=-limit, vmax=limit, cmap="RdBu_r"
    )
    axes[0, 2].set(
        title=f"residual: at most {100 * fit.residual:.2f} % of the peak",
        xlabel="x [native pixel]",
        ylabel="y [native pixel]",
    )
    reach = min(0.5 * (sides[1] - sides[0]), 12.0)
    axes[0, 2].set(xlim=(-reach, reach), ylim=(-reach, reach))
    figure.colorbar(shown, ax=axes[0, 2], shrink=0.8, label="(mixture - image) / peak [%]")
    _profiles(axes[1, 0], fit, image, model, peak)
    _energy(axes[1, 1], axes[1, 2], fit, image, model)
    figure.suptitle(title)
    return figure


def new_figure(width, height):
    """An empty figure, of inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _ellipses(ax, parameters, least):
    """One sigma of components of that width or more; dashed where their amplitude is negative."""
    for k, p in enumerate(parameters):
        matrix = np.array([[p["Cxx"], p["Cxy"]], [p["Cxy"], p["Cyy"]]], float)
        value, vector = np.linalg.eigh(matrix)
        width, height = 2 * np.sqrt(np.maximum(value, 0))
        if max(width, height) < least:
            continue
        angle = np.degrees(np.arctan2(vector[1, 0], vector[0, 0]))
        ax.add_patch(
            Ellipse(
                (p["xcr"], p["ycr"]), width, height, angle=angle, fill=False, lw=1,
                color=_COLORS[k % len(_COLORS)], ls="-" if p["amp"] > 0 else "--",
            )
        )  # fmt: skip


def _radii(fit, shape):
    gy, gx = np.indices(shape)
    return np.hypot(gx - fit.center[0], gy - fit.center[1]) / fit.oversample


def _profiles(ax, fit, image, model, peak):
    """Mean over circles, and every component's own profile."""
    radius = _radii(fit, image.shape)
    edges = np.concatenate([[0], np.geomspace(0.5 / fit.oversample, radius.max() / 1.3, 40)])
    label = np.digitize(radius.ravel(), edges) - 1
    good = np.isfinite(image).ravel()
    count = np.bincount(label[good], minlength=len(edges))[:-1]
    used = count > 0

    def mean(picture):
        total = np.bincount(label[good], picture.ravel()[good], len(edges))[:-1]
        return total[used] / count[used]

    where = mean(radius)
    ax.plot(where, mean(image) / peak, "k-", lw=2, label="image")
    ax.plot(where, mean(model) / peak, "--", color="#d1495b", lw=2, label="mixture")
    pixel = 0.0 if fit.includes_pixel else 1 / (12 * fit.oversample**2)
    for k, p in enumerate(fit.parameters):
        area = np.sqrt(
            max((p["Cxx"] + pixel) * (p["Cyy"] + pixel) - p["Cxy"] ** 2, _SMALLEST_SIGMA**4)
        )
        top = abs(p["amp"]) / (2 * np.pi * area) / fit.oversample**2
        ax.plot(
            where, top * np.exp(-0.5 * where**2 / area) / peak, lw=0.9,
            color=_COLORS[k % len(_COLORS)], ls="-" if p["amp"] > 0 else ":",
        )  # fmt: skip
    floor = max(np.min(np.abs(mean(image))) / peak / 10, 1e-9)
    ax.set(
        xscale="log", yscale="log", ylim=(floor, 2), xlabel="radius [native pixel]",
        ylabel="mean surface brightness / peak", title="profile and components",
    )  # fmt: skip
    ax.legend()


def _energy(curve, error, fit, image, model):
    """Encircled energy of both, and the error of the mixture's."""
    outer = _radii(fit, image.shape).max()
    least = 0.3 / fit.oversample
    radius = np.geomspace(least, outer, 200)
    good = np.isfinite(image)
    total = image[good].sum()
    for picture, style, name in ((image, "k-", "image"), (model, "--", "mixture")):
        color = {} if style == "k-" else {"color": "#d1495b"}
        inside = light_within(np.where(good, picture, 0.0), fit.center, radius * fit.oversample)
        curve.plot(radius, inside / total, style, lw=2, label=name, **color)
    curve.set(
        xscale="log", xlim=(least, outer), xlabel="radius [native pixel]",
        ylabel="flux inside / sum of the stamp", title="encircled energy",
    )  # fmt: skip
    curve.legend(loc="lower right")
    inside = np.asarray(fit.ee_radii) < outer
    error.axhline(0, color="0.6", lw=0.8)
    error.plot(
        np.asarray(fit.ee_radii)[inside], 100 * np.asarray(fit.ee_errors)[inside], "o-",
        color="#d1495b",
    )  # fmt: skip
    error.set(
        xscale="log", xlabel="radius [native pixel]", ylabel="mixture - image [% of the stamp]",
        title=f"its error: at most {100 * fit.ee_error:.2f} % at 1-5 px",
    )  # fmt: skip


def ladder_figure(rungs, chosen, tolerance=None):
    """Residual, encircled-energy error and processor time against the number of Gaussians."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    n = [rung.ngauss for rung in rungs]
    left.plot(n, [100 * rung.fit.residual for rung in rungs], "o-", label="residual / peak")
    left.plot(n, [100 * rung.fit.ee_error for rung in rungs], "s--", label="encircled energy")
    if tolerance is not None:
        left.axhline(100 * tolerance, color="0.5", ls=":", label="tolerance")
    left.axvline(chosen, color="0.8", lw=6, zorder=0, label="stored")
    left.set(yscale="log", xlabel="Gaussians", ylabel="error [%]")
    left.legend()
    right.plot(n, np.cumsum([rung.seconds for rung in rungs]), "o-")
    right.set(xlabel="Gaussians", ylabel="processor time so far [s]", ylim=(0, None))
    for ax in (left, right):
        ax.set_xticks(n)
    return figure


def _shown(posterior):
    """Amplitudes and mean sigmas of the components, by width: {label: [chain, draw]}."""
    draws = posterior.ordered("width")
    area = draws["Cxx"] * draws["Cyy"] - draws["Cxy"] ** 2
    out = {}
    for k in range(posterior.ngauss):
        out[f"amp {k + 1}"] = draws["amp"][..., k]
        out[f"sigma {k + 1} [px]"] = np.maximum(area[..., k], 0) ** 0.25
    if "background" in draws:
        out["background"] = draws["background"]
    return out


def _stored(posterior):
    """The labels of `_shown` with the values of the stored mixture."""
    p = posterior.parameters
    width = np.maximum(p["Cxx"] * p["Cyy"] - p["Cxy"] ** 2.0, 0) ** 0.25
    out = {"background": posterior.background}
    for k, index in enumerate(np.argsort(width, kind="stable")):
        out |= {f"amp {k + 1}": p["amp"][index], f"sigma {k + 1} [px]": width[index]}
    return out


def trace_figure(posterior):
    """Traces of amplitudes, widths and the likelihood, one line per chain."""
    shown = _shown(posterior)
    shown["log likelihood"] = posterior.log_likelihood
    figure = new_figure(12, 1.25 * len(shown) + 0.6)
    axes = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    for ax, (label, value) in zip(axes, shown.items(), strict=True):
        for chain, color in zip(value, _COLORS * (1 + len(value) // 6), strict=False):
            ax.plot(chain, lw=0.6, color=color)
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("draw")
    return figure


def corner_figure(posterior):
    """Pairs of amplitudes and widths; the stored mixture is marked."""
    shown = {label: value.ravel() for label, value in _shown(posterior).items()}
    varied = {label: value for label, value in shown.items() if np.ptp(value) > 0}
    n = len(varied)
    figure = new_figure(1.6 * n + 1, 1.6 * n + 0.6)
    axes = figure.subplots(n, n, squeeze=False)
    best = _stored(posterior)
    for i, (yl, y) in enumerate(varied.items()):
        for j, (xl, x) in enumerate(varied.items()):
            ax = axes[i, j]
            if j > i:
                ax.set_axis_off()
                continue
            if i == j:
                ax.hist(x, 30, color="#30638e", histtype="stepfilled", alpha=0.7)
                ax.set_yticks([])
            else:
                ax.plot(x, y, ",", color="#30638e", alpha=0.5, rasterized=True)
            ax.axvline(best[xl], color="#d1495b", lw=0.8)
            if i != j:
                ax.axhline(best[yl], color="#d1495b", lw=0.8)
            ax.tick_params(labelsize=6, labelbottom=i == n - 1, labelleft=j == 0 and i > 0)
            if i == n - 1:
                ax.set_xlabel(xl, fontsize=8)
            if j == 0 and i > 0:
                ax.set_ylabel(yl, fontsize=8)
    return figure


def varying_figure(model, errors, title):
    """Residuals at the positions and where they are left out, and the shape over the field.

    Parameters
    ----------
    model : PSFModel
        With locations.
    errors : psfmix.varying.Interpolation
    title : str
    """
    figure = new_figure(15, 4.8)
    x, y = model.locations.T
    panels = figure.subplots(1, 3)
    top = 100 * np.nanmax([errors.at_nodes.max(), np.nanmax([*errors.left_out, 0.0])])
    for ax, value, name in (
        (panels[0], errors.at_nodes, "fitted here"),
        (panels[1], errors.left_out, "interpolated, position left out"),
    ):
        shown = ax.scatter(x, y, 160, c=100 * value, vmin=0, vmax=top, cmap="viridis", marker="s")
        empty = ~np.isfinite(value)
        ax.scatter(x[empty], y[empty], 30, color="0.7", marker="x")
        figure.colorbar(shown, ax=ax, shrink=0.8, label="largest residual / peak [%]")
        ax.set(title=name, xlabel="x [pixel]", ylabel="y [pixel]")
    p = model.parameters
    weight = p["amp"] / p["amp"].sum(-1, keepdims=True)
    centre = [np.sum(weight * p[k], -1, keepdims=True) for k in ("xcr", "ycr")]
    offset = [p[k] - c for k, c in zip(("xcr", "ycr"), centre, strict=True)]
    xx = np.sum(weight * (p["Cxx"] + offset[0] ** 2), -1)
    yy = np.sum(weight * (p["Cyy"] + offset[1] ** 2), -1)
    xy = np.sum(weight * (p["Cxy"] + offset[0] * offset[1]), -1)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    size = np.hypot(xx - yy, 2 * xy) / (xx + yy)
    shown = panels[2].quiver(
        x, y, size * np.cos(angle), size * np.sin(angle), np.sqrt(np.abs(xx + yy) / 2),
        headlength=0, headaxislength=0, headwidth=1, pivot="mid", cmap="magma",
    )  # fmt: skip
    figure.colorbar(shown, ax=panels[2], shrink=0.8, label="second-moment sigma [native pixel]")
    panels[2].quiverkey(shown, 0.85, 1.03, 0.1, "ellipticity .1", labelpos="E")
    panels[2].set(title="shape of the mixture", xlabel="x [pixel]")
    figure.suptitle(f"{title}: {p.shape[1]} Gaussians at {len(p)} positions")
    return figure
