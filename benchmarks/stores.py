"""How long a patch takes from a store of many exposures, and how much memory.

    python benchmarks/stores.py --folder /tmp/stores --exposures 2000 --side 256

Makes the stores when the folder has none, then measures in a process of its own: opening, finding
the exposures of a patch, packing it. "Cold" is the first time in the process, "warm" the median of
the next.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CENTRE, SCALE, RADIUS = (150.0, 2.0), 0.06, 1.5
BANDS = ("F115W", "F200W", "F277W", "F444W")
WARM = 5


def make(folder: Path, n: int, side: int) -> None:
    """Dithered, rotated exposures over a field ten images wide."""
    import h5py
    from astropy.wcs import WCS
    from tqdm import tqdm

    from jaxpho.data.metastore import write_meta_store
    from jaxpho.data.pixelstore import write_exposure, write_header
    from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
    from jaxpho.data.psfstore import write_psf_store

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    extent = 5 * side * SCALE / 3600
    headers = {band: {} for band in BANDS}
    with h5py.File(folder / "pixels.h5", "w") as file:
        write_header(file, (side, side))
        for k in tqdm(range(n), unit="exposure"):
            band, name = BANDS[k % len(BANDS)], f"visit{k // 40:03d}/e{k:05d}"
            angle = np.radians(rng.uniform(0, 360))
            c, s = np.cos(angle), np.sin(angle)
            wcs = WCS(naxis=2)
            wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
            wcs.wcs.crval = np.add(CENTRE, rng.uniform(-extent, extent, 2))
            wcs.wcs.crpix = [side / 2] * 2
            wcs.wcs.cd = SCALE / 3600 * np.array([[-c, -s], [-s, c]])
            header = wcs.to_header()
            header["FILTER"], header["NAXIS1"], header["NAXIS2"] = band, side, side
            headers[band][name] = header
            data = rng.normal(0, 1, (side, side)).astype(np.float32)
            attrs = {"flux_units": "nJy", "counts_to_flux": 1.0}
            write_exposure(file, band, name, data, np.ones_like(data), attrs)
    write_meta_store(folder / "meta.json", headers)
    psf = np.zeros((1, 4), PSF_DTYPE)
    psf["amp"], psf["sersic_bin"] = 0.25, -1
    psf["Cxx"] = psf["Cyy"] = [1.0, 2.0, 4.0, 16.0]
    for band in BANDS:
        write_psf_store(folder / "psf.h5", band, PSFModel(psf))


def measure(folder: Path) -> None:
    """Print seconds and memory of opening and packing."""
    from jaxpho.data.catalog import Peak
    from jaxpho.data.metastore import open_meta_store
    from jaxpho.data.packing import PackedPatch
    from jaxpho.data.pixelstore import PixelStore
    from jaxpho.data.skyregion import Circle

    before = peak_mb()
    with PixelStore(folder / "pixels.h5") as pixels:
        extent = 5 * pixels.nside_full[0] * SCALE / 3600
    rng = np.random.default_rng(1)
    times = []
    for k in range(WARM + 1):
        # another place each time: nothing of it has been read before
        ra, dec = np.add(CENTRE, rng.uniform(-0.8, 0.8, 2) * extent)
        shape = {"rhalf": 0.2, "sersic": 1.5, "q": 0.7, "pa": 30.0}
        peaks = [Peak(0, "sersic", ra, dec, shape, {})]
        start = time.perf_counter()
        meta = open_meta_store(folder / "meta.json")
        opened = time.perf_counter()
        with PixelStore(folder / "pixels.h5") as pixels:
            packed = PackedPatch.from_stores(
                meta, pixels, folder / "psf.h5", peaks, region=Circle(ra, dec, RADIUS)
            )
        packed.patch.data.block_until_ready()
        times.append((opened - start, time.perf_counter() - start))
        if k == 0:
            print(
                f"{len(meta)} exposures; the patch has {len(packed.exposures)} and "
                f"{64 * sum(packed.n_tiles)} pixels"
            )
    print(f"cold: open {times[0][0]:.3f} s, open + find + pack {times[0][1]:.3f} s")
    warm = np.median(times[1:], axis=0)
    print(f"warm: open {warm[0]:.3f} s, open + find + pack {warm[1]:.3f} s")
    print(f"memory above imports: {peak_mb() - before:.0f} MB")


def peak_mb() -> float:
    """Largest memory of this process so far."""
    try:
        # unlike getrusage this does not count what the parent had before
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--folder", type=Path, required=True)
    p.add_argument("--exposures", type=int, default=2000)
    p.add_argument("--side", type=int, default=256)
    p.add_argument("--measure", action="store_true", help="only measure, in this process")
    args = p.parse_args()
    if args.measure:
        measure(args.folder)
        return
    if not (args.folder / "psf.h5").exists():
        make(args.folder, args.exposures, args.side)
    command = [sys.executable, __file__, "--folder", str(args.folder), "--measure"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
