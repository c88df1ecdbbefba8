"""Diagnostic figures of PSFs from stars."""

import numpy as np

from psfmix.figures import new_figure
from psfmix.model import brightness

# The stretch of stars is linear below this part of the peak; residuals are shown to this much.
_LINEAR, _SIGMAS = 1e-3, 5.0
_MOSAIC = 100
# Half width, in sigmas, and samples a side of the picture that the FWHM is measured on.
_REACH, _SAMPLES = 3.0, 151
_NODES = 7


def core_shape(raw):
    """FWHM (native px) and ellipticity of a mixture's isophote at half of the maximum.

    Parameters
    ----------
    raw : array (ngauss, 6)

    Returns
    -------
    fwhm, e1, e2 : float
        e = (a^2 - b^2) / (a^2 + b^2) of the second moments inside the isophote; e1 along x.
    """
    amp = np.abs(raw[:, 0])
    half = _REACH * np.sqrt(amp @ raw[:, 3:5].max(axis=1) / amp.sum())
    for _ in range(2):  # the second time only what is above half of the maximum
        step = np.linspace(-half, half, _SAMPLES)
        x, y = np.meshgrid(step, step)
        light = brightness(raw, x, y)
        inside = light > 0.5 * light.max()
        half = 1.1 * max(np.abs(x[inside]).max(), np.abs(y[inside]).max()) + step[1] - step[0]
    dx, dy = x[inside] - x[inside].mean(), y[inside] - y[inside].mean()
    xx, yy, xy = np.mean(dx * dx), np.mean(dy * dy), np.mean(dx * dy)
    area = inside.sum() * (step[1] - step[0]) ** 2
    return 2 * np.sqrt(area / np.pi), (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def star_figure(fit, title):
    """Stack of the stars, of their models, their difference; the PSF over the detector; chi2.

    Parameters
    ----------
    fit : psfmix.stars.StarFit
    title : str

    Returns
    -------
    matplotlib Figure
    """
    figure = new_figure(15, 9)
    axes = figure.subplots(2, 3)
    star, model, sigma = fit.stacks()
    peak = np.nanmax(model)
    half = star.shape[0] / 2
    layout = {"origin": "lower", "extent": (-half, half, -half, half)}
    for ax, picture, name in ((axes[0, 0], star, "stack of stars"), (axes[0, 1], model, "model")):
        shown = ax.imshow(
            np.arcsinh(picture / peak / _LINEAR), cmap="magma", vmin=-1,
            vmax=np.arcsinh(1 / _LINEAR), **layout,
        )  # fmt: skip
        ax.set(title=name, xlabel="x [native pixel]", ylabel="y [native pixel]")
    ticks = np.array([0, 1e-3, 1e-2, 1e-1, 1])
    bar = figure.colorbar(shown, ax=axes[0, :2], shrink=0.8, label="part of the peak")
    bar.set_ticks(np.arcsinh(ticks / _LINEAR), labels=[f"{tick:g}" for tick in ticks])
    shown = axes[0, 2].imshow(
        (star - model) / sigma, cmap="RdBu_r", vmin=-_SIGMAS, vmax=_SIGMAS, **layout
    )
    figure.colorbar(shown, ax=axes[0, 2], shrink=0.8, label="(stars - model) / sigma")
    worst = 100 * np.nanmax(np.abs(star - model)) / peak
    axes[0, 2].set(title=f"residual: at most {worst:.2f} % of the peak", xlabel="x [native pixel]")
    _field(figure, axes[1, 0], fit)
    _scatter(axes[1, 1], axes[1, 2], fit)
    figure.suptitle(title)
    return figure


def _field(figure, ax, fit):
    """FWHM and ellipticity of the mixture over the detector, and the stars."""
    (x0, y0), (hx, hy) = fit.field.middle, fit.field.half
    side = _NODES if fit.field.order else 1
    step = np.linspace(-1, 1, side) if side > 1 else np.zeros(1)
    x, y = (a.ravel() for a in np.meshgrid(x0 + hx * step, y0 + hy * step))
    fwhm, e1, e2 = np.array([core_shape(fit.at(*xy)) for xy in zip(x, y, strict=True)]).T
    size, angle = np.hypot(e1, e2), 0.5 * np.arctan2(e2, e1)
    shown = ax.quiver(
        x, y, size * np.cos(angle), size * np.sin(angle), fwhm, headlength=0, headaxislength=0,
        headwidth=1, pivot="mid", cmap="viridis", scale=12 * max(size.max(), 0.02), width=0.008,
    )  # fmt: skip
    figure.colorbar(shown, ax=ax, shrink=0.8, label="FWHM of the mixture [native pixel]")
    table, good = fit.table, fit.accepted
    for mask, style, name in ((good, "k.", "used"), (~good, "rx", "rejected")):
        ax.plot(table["x_in"][mask], table["y_in"][mask], style, ms=4, label=name)
    ax.legend(loc="upper right", fontsize=8)
    ax.set(
        title=f"FWHM {fwhm.min():.3f} to {fwhm.max():.3f} px, ellipticity up to {size.max():.3f}",
        xlabel="x [pixel]", ylabel="y [pixel]",
    )  # fmt: skip


def _scatter(left, right, fit):
    table, good = fit.table, fit.accepted
    for mask, style, name in ((good, "k.", "used"), (~good, "rx", "rejected")):
        left.plot(table["snr"][mask], table["core_chi2"][mask], style, label=name)
        right.plot(table["snr"][mask], table["size_excess"][mask], style, label=name)
    left.set(
        xscale="log", yscale="log", xlabel="flux / error", ylabel="chi2 per pixel of the core",
        title="agreement of the stars",
    )  # fmt: skip
    right.axhline(0, color="0.6", lw=0.8)
    right.set(
        xscale="log", xlabel="flux / error", ylabel="variance beyond the PSF's / PSF's",
        title="size of the stars",
    )  # fmt: skip
    for ax in (left, right):
        ax.xaxis.set_minor_formatter("")
    left.legend()


def residual_figure(fit, title):
    """(Star - model) / sigma of every star; the rejected first, then by signal, at most 100."""
    table = fit.table
    known = np.flatnonzero(np.isfinite(table["flux"]))
    order = known[np.lexsort((-np.asarray(table["snr"])[known], fit.accepted[known]))][:_MOSAIC]
    side = max(1, int(np.ceil(np.sqrt(len(order)))))
    rows = max(1, -(-len(order) // side))
    figure = new_figure(1.5 * side + 1, 1.65 * rows + 0.8)
    axes = figure.subplots(rows, side, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    shown = None
    for ax, k in zip(axes.ravel(), order, strict=False):
        residual = (fit.stamps.images[k] - fit.models[k]) / fit.sigma[k]
        residual = np.where(np.isfinite(fit.sigma[k]), residual, np.nan)
        shown = ax.imshow(residual, origin="lower", cmap="RdBu_r", vmin=-_SIGMAS, vmax=_SIGMAS)
        clipped = np.isfinite(fit.sigma[k]) & ~fit.used[k]
        if clipped.any():
            ax.contour(clipped * 1.0, [0.5], colors="#00a060", linewidths=0.7)
        text = f"{table['star'][k]}: S/N {table['snr'][k]:.0f}"
        reason = "" if fit.accepted[k] else f"\n{table['reason'][k].split(';')[0][:22]}"
        ax.set_title(text + reason, fontsize=6, color="k" if fit.accepted[k] else "#d1495b")
    if shown is not None:
        figure.colorbar(shown, ax=axes, shrink=0.5, label="(star - model) / sigma")
    figure.suptitle(f"{title}: clipped pixels are outlined, rejected stars red", fontsize=9)
    return figure
