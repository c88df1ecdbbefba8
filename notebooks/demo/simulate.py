"""Simulate the demo's field with GalSim: `python simulate.py SEED OUTDIR`.

Writes below OUTDIR: images/*.fits (SCI, ERR, DQ), psf/*.fits (oversampled, without the detector
pixel), peaks.fits (what the fit may know), truth.ecsv (what it may not), config.yml (for
jaxpho-fit) and preview.png. The same seed gives the same files. jaxpho is not imported: nothing
here can share a mistake with the code under test.
"""

import argparse
import string
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from demo_field import BANDS, OVERSAMPLE, PSF_HALF, make_exposures, make_sources
from demo_forecast import forecast

PEAK_SCATTER = 0.05  # arcsec per axis
BAD_COLUMN, COSMIC_RAY = 1, 4  # bits of the DQ extension
UNITS = {"ra": u.deg, "dec": u.deg, "rhalf": u.arcsec, "pa": u.deg}
HERE = Path(__file__).resolve().parent


def set_fluxes(sources, exposures):
    """Give each source the flux (nJy) of its S/N; return its noiseless unit-flux images.

    S/N^2 of a band = sum over all pixels of its exposures of (model / sky noise)^2, the source
    alone; `sn` is that of the better band. Drawn on whole images, so that no wing is cut.
    """
    unit = {}
    for source in sources:
        power = {band.name: 0.0 for band in BANDS}
        for exposure in exposures:
            image = exposure.draw(exposure.profile(source), exposure.position(source))
            unit[source.id, exposure.name] = image
            power[exposure.band.name] += np.sum((image / (exposure.to_njy * exposure.sky)) ** 2)
        ratio = {"g": 1.0, "z": source.colour}
        amplitude = source.sn / max(ratio[b] * np.sqrt(p) for b, p in power.items())
        source.flux = {b: amplitude * ratio[b] for b in power}
        source.sn_band = {b: source.flux[b] * np.sqrt(p) for b, p in power.items()}
    return unit


def bad_pixels(rng, n):
    """DQ image with a few bad columns and cosmic rays."""
    dq = np.zeros((n, n), np.int32)
    for x in rng.integers(0, n, 2):
        start = rng.integers(0, n // 2)
        dq[start:, x] |= BAD_COLUMN
    for _ in range(14):
        x, y, angle = rng.uniform(0, n), rng.uniform(0, n), rng.uniform(0, np.pi)
        step = np.arange(rng.integers(2, 9))
        xs = np.clip(x + step * np.cos(angle), 0, n - 1).astype(int)
        ys = np.clip(y + step * np.sin(angle), 0, n - 1).astype(int)
        dq[ys, xs] |= COSMIC_RAY
    return dq


def observe(rng, exposure, model):
    """Noise and defects on a noiseless image (counts): (sci, sigma, dq)."""
    sigma = np.sqrt(exposure.sky**2 + np.maximum(model, 0) / exposure.band.gain)
    sci = model + sigma * rng.standard_normal(model.shape)
    dq = bad_pixels(rng, exposure.band.npix)
    garbage = rng.choice([np.nan, 65535.0, -1e5], size=dq.shape)
    sci = np.where(dq & BAD_COLUMN, garbage, sci)
    sci = np.where(dq & COSMIC_RAY, 3e4 * rng.uniform(0.3, 1, dq.shape), sci)
    return sci, sigma, dq


def write_image(path, exposure, sci, sigma, dq):
    """One file, three extensions; the WCS and the zero point stand in SCI."""
    hdus = [fits.PrimaryHDU()]
    for name, array in (("SCI", sci), ("ERR", sigma), ("DQ", dq)):
        dtype = np.int32 if name == "DQ" else np.float32
        hdu = fits.ImageHDU(array.astype(dtype), name=name)
        if name == "SCI":
            hdu.header.update(exposure.header)
        hdus.append(hdu)
    fits.HDUList(hdus).writeto(path, overwrite=True)


def write_psf(path, exposure):
    """The PSF at OVERSAMPLE samples per pixel, each averaged over its own small pixel only."""
    n = 2 * PSF_HALF * OVERSAMPLE + 1
    image = exposure.psf.drawImage(nx=n, ny=n, scale=1 / OVERSAMPLE, method="auto", dtype=float)
    hdu = fits.PrimaryHDU(image.array.astype(np.float32))
    hdu.header["OVERSAMP"] = (OVERSAMPLE, "samples per detector pixel")
    hdu.header["PSFPIXEL"] = (False, "is the detector pixel included?")
    hdu.header["EXPID"] = exposure.name
    hdu.writeto(path, overwrite=True)


def write_tables(rng, out, sources, expected):
    """peaks.fits and truth.ecsv."""
    rows, peaks = [], []
    for s in sources:
        (ra, dec), (e1, e2) = s.sky, s.shape
        row = {"id": s.id, "type": s.type, "ra": ra, "dec": dec}
        row |= {f"flux_{b}": f for b, f in s.flux.items()}
        galaxy = s.type == "sersic"
        shape = {"rhalf": s.rhalf, "sersic": s.sersic, "q": s.q, "pa": s.pa, "e1": e1, "e2": e2}
        row |= {k: (v if galaxy else np.nan) for k, v in shape.items()}
        row |= {"sn": s.sn, "pair": s.pair} | {f"sn_{b}": v for b, v in s.sn_band.items()}
        for name in ("ra", "dec", *(f"flux_{b}" for b in s.flux), "rhalf", "sersic", "e1", "e2"):
            sigma, shift = expected[s.id].get(name, (np.nan, np.nan))
            row |= {f"{name}_forecast": sigma, f"{name}_shift": shift}
        rows.append(row)
        dx, dy = np.clip(rng.normal(0, PEAK_SCATTER, 2), -0.12, 0.12) / 3600
        peaks.append((s.id, ra + dx / np.cos(np.radians(dec)), dec + dy, s.type))
    truth = Table(rows)
    for name in truth.colnames:
        base = name.removesuffix("_forecast").removesuffix("_shift")
        unit = u.nJy if base.startswith("flux_") else UNITS.get(base)
        truth[name].unit = u.arcsec if base in ("ra", "dec") and base != name else unit
    truth.meta["comments"] = [
        "<p>_forecast: Cramer-Rao error of parameter p at the truth, from GalSim images",
        "<p>_shift: where this noise moves the optimum to first order, fit - truth",
        "flux: total of the untruncated profile; rhalf: circularised; pa: East of North",
    ]
    truth.write(out / "truth.ecsv", overwrite=True)
    table = Table(rows=peaks, names=("id", "ra", "dec", "type"))
    table["ra"].unit = table["dec"].unit = u.deg
    table.write(out / "peaks.fits", overwrite=True)


def write_preview(path, exposures, images, sources):
    """A look at all exposures; rings mark the sources."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(16, 8.4), layout="constrained")
    for ax, exposure in zip(axes.flat, exposures, strict=True):
        sci, _, dq = images[exposure.name]
        shown = np.where(dq > 0, np.nan, sci) / exposure.sky
        ax.imshow(np.arcsinh(shown / 2), origin="lower", vmin=-1.5, vmax=4, cmap="gray")
        for s in sources:
            at = exposure.position(s)
            colour = "tab:orange" if s.type == "sersic" else "tab:cyan"
            ax.plot(at.x - 1, at.y - 1, "o", mfc="none", mec=colour, ms=14, mew=0.7)
        ax.set_title(f"{exposure.name}  ({exposure.band.scale} arcsec per pixel)", fontsize=10)
    figure.suptitle("arcsinh of data / sky noise; galaxies orange, stars blue; masked pixels white")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def simulate(seed, out):
    """Write the whole field of ``seed`` below the folder ``out``; return its sources."""
    out = Path(out)
    for folder in ("images", "psf"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 20260])
    sources, exposures = make_sources(rng), make_exposures(rng)
    unit = set_fluxes(sources, exposures)

    images, residuals, weights = {}, {}, {}
    for exposure in exposures:
        counts = {s.id: s.flux[exposure.band.name] / exposure.to_njy for s in sources}
        model = sum(counts[s.id] * unit[s.id, exposure.name] for s in sources)
        sci, sigma, dq = observe(rng, exposure, model)
        images[exposure.name] = sci, sigma, dq
        residuals[exposure.name] = np.where(dq > 0, 0, sci - model)
        weights[exposure.name] = np.where(dq > 0, 0, sigma**-2)
        write_image(out / "images" / f"{exposure.name}.fits", exposure, sci, sigma, dq)
        write_psf(out / "psf" / f"{exposure.name}.fits", exposure)

    pairs = sorted({s.pair for s in sources if s.pair >= 0})
    groups = [[s] for s in sources if s.pair < 0]
    groups += [[s for s in sources if s.pair == pair] for pair in pairs]
    expected = forecast(exposures, groups, residuals, weights)
    write_tables(rng, out, sources, expected)
    template = string.Template((HERE / "config_template.yml").read_text())
    (out / "config.yml").write_text(template.substitute(seed=seed))
    write_preview(out / "preview.png", exposures, images, sources)
    return sources


def main(argv=None):
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed", type=int, help="any non-negative integer")
    parser.add_argument("outdir", type=Path, help="folder to write to")
    options = parser.parse_args(argv)
    sources = simulate(options.seed, options.outdir)
    galaxies = sum(s.type == "sersic" for s in sources)
    print(f"simulated {galaxies} galaxies and {len(sources) - galaxies} stars, seed {options.seed}")
    print(f"images, PSFs, peaks, truth and config.yml: {options.outdir}")
    print(f"picture of the field: {options.outdir / 'preview.png'}")


if __name__ == "__main__":
    main()
