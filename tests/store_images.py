"""Small images of every kind that is read, as files, and the configuration that stores them."""

import json

import h5py
import numpy as np
import yaml
from astropy.io import fits
from fits_images import DEC, RA, image_data, tan_header, write_mef
from store_case import case_wcs

from jaxpho import cli
from jaxpho.data.metastore import open_meta_store
from jaxpho.data.pixelstore import PixelStore
from jaxpho.data.storeinfo import read_info

SHAPES = {"a": (24, 32), "b": (24, 32), "c": (40, 29), "d": (33, 50), "e": (24, 32), "f": (17, 24)}


def sip(shape):
    """A distorted WCS about the common centre."""
    wcs = case_wcs(0.2, 25.0, (0, 0), sip=True)
    wcs.wcs.crval, wcs.wcs.crpix = [RA, DEC], [shape[1] / 2, shape[0] / 2]
    wcs.sip.crpix[:] = wcs.wcs.crpix
    return wcs.to_header(relax=True)


def write_images(folder):
    """Files of two bands: units, errors, masks, skies, sizes and WCS of several kinds."""
    data = {name: image_data(k, shape=shape) for k, (name, shape) in enumerate(SHAPES.items())}
    one = {name: np.ones(shape, "f4") for name, shape in SHAPES.items()}
    # jwst: surface brightness, bits, two detectors
    for name, detector in (("a", "NRCA1"), ("b", "NRCA2")):
        dq = np.zeros(SHAPES[name], np.uint32)
        dq[3, 4], dq[5, 6] = 1, 4
        header = tan_header(BUNIT="MJy/sr", PIXAR_SR=2e-14, DETECTOR=detector, FILTER="F200W")
        write_mef(folder / f"{name}_cal.fits", data[name], header, ERR=2 * one[name], DQ=dq)
    # counts with a zero point, weight and mask in other files, a sky model, TPV
    header = tan_header(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", MAGZPT=30.0, FILTER="R")
    header["PV1_1"], header["PV2_1"], header["PV1_4"] = 1.001, 0.999, 0.2
    for kind, array in (("ooi", data["c"] + 7), ("oow", 4 * one["c"]), ("ood", 0 * one["c"])):
        array = array.astype(np.int16) if kind == "ood" else array
        if kind == "ood":
            array[1, 2] = 3
        fits.PrimaryHDU(array, header).writeto(folder / f"c_{kind}.fits")
    fits.PrimaryHDU(np.full((3, 4), 7.0)).writeto(folder / "c_sky.fits")
    # a distorted one in uJy with bad pixels; one with ABMAG; an array without header
    data["d"][2, 3], one["d"][4, 5], one["d"][6, 7] = np.nan, -1.0, 0.0
    write_mef(folder / "d.fits", data["d"], sip(SHAPES["d"]) + fits.Header({"BUNIT": "uJy"}),
              VAR=one["d"])  # fmt: skip
    write_mef(folder / "e.fits", data["e"], tan_header(ABMAG=28.9, CRVAL1=RA + 2e-4), ERR=one["e"])
    np.save(folder / "f.npy", data["f"])
    np.save(folder / "f_err.npy", one["f"])


def configuration(folder, **extra):
    """Write the images' configuration; returns its path."""
    r = {"band": "r"}
    values = {
        "bands": ["f200w", "r"],
        "stores": "stores",
        "images": [
            {"band": "f200w", "files": "?_cal.fits", "preset": "jwst"},
            r | {"files": "c_ooi.fits", "name": "deep/c", "science": 0,
                 "weight": {"replace": ["ooi", "oow"]}, "mask": {"replace": ["ooi", "ood"]},
                 "mask_regions": [[0, 3, 0, 2]], "zero_point": {"key": "MAGZPT"},
                 "sky": {"file": "{dir}/c_sky.fits", "nuisance": "constant"},
                 "wcs": {"offset_ra": 0.2}, "astrometry": {"offset_sigma": 0.01}},
            r | {"files": "d.fits", "variance": "VAR", "name": "deep/d"},
            r | {"files": "e.fits", "error": "ERR", "sky": {"subtract": "estimate"},
                 "shot_noise": {"gain": 2.0}, "error_scale": 1.5},
            r | {"files": "f.npy", "error": {"file": "{dir}/f_err.npy"}, "unit": "nJy",
                 "wcs": {"pixel_scale": 0.25, "ra": RA, "dec": DEC, "rotation": 40.0}},
        ],
        **extra,
    }  # fmt: skip
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(values))
    return path


KEYS = [("f200w", "a_cal"), ("f200w", "b_cal"), ("r", "deep/c"), ("r", "deep/d"), ("r", "e"),
        ("r", "f")]  # fmt: skip


def command(path, *words):
    return cli.main(["preprocess", str(path), *map(str, words)])


def contents(folder):
    """Everything in stores: headers, data sets and attributes."""
    out = {"meta": json.loads((folder / "meta.json").read_text())}
    with h5py.File(folder / "pixels.h5", locking=False) as f:
        out["file"] = {k: np.asarray(v).tolist() for k, v in f.attrs.items()}

        def keep(name, node):
            if isinstance(node, h5py.Dataset):
                attrs = {k: np.asarray(v).tolist() for k, v in node.attrs.items()}
                out[name] = (node[()].tobytes(), node.shape, str(node.dtype), attrs)

        f.visititems(keep)
    return out


def check_stores(folder):
    """Whatever happened: what the meta store lists is in the pixel store, whole."""
    if not (folder / "meta.json").exists():
        return []
    meta = open_meta_store(folder / "meta.json")
    with PixelStore(folder / "pixels.h5") as pixels:
        for key in meta.keys:
            data, ierr = pixels.image(*key)
            assert data.shape == meta.nside(*key)[::-1] and (ierr > 0).any()
            # the header is that of these pixels
            digest = read_info(pixels.attrs(*key))["digest"]
            assert len(digest) == 40
    return meta.keys
