"""A small gwcs, as pipelines make them, and FITS images that carry one."""

import io

import numpy as np
from astropy.io import fits

CENTRE = (150.0, 2.0)


def make_gwcs(shape, scale=0.05, analytic=True):
    """A rotated tangent plane about the image's middle; unless analytic, behind a distortion.

    The distortion is quadratic and has no inverse.
    """
    import gwcs
    from astropy import coordinates as coord
    from astropy import units as u
    from astropy.modeling import models
    from gwcs import coordinate_frames as cf

    ny, nx = shape
    shift = models.Shift(-(nx - 1) / 2) & models.Shift(-(ny - 1) / 2)
    bent = models.Polynomial2D(2, c1_0=1.0, c2_0=2e-5, c1_1=1e-5)
    other = models.Polynomial2D(2, c0_1=1.0, c0_2=-2e-5, c2_0=1e-5)
    distortion = models.Mapping((0, 1, 0, 1)) | (bent & other)
    angle, step = np.radians(20.0), scale / 3600.0
    c, s = np.cos(angle), np.sin(angle)
    matrix = models.AffineTransformation2D(step * np.array([[-c, s], [s, c]]))
    sky = models.Pix2Sky_TAN() | models.RotateNative2Celestial(*CENTRE, 180.0)
    transform = shift | (models.Identity(2) if analytic else distortion) | matrix | sky
    pixels = cf.Frame2D(name="detector", axes_order=(0, 1), unit=(u.pix, u.pix))
    world = cf.CelestialFrame(reference_frame=coord.ICRS(), name="world", unit=(u.deg, u.deg))
    return gwcs.WCS([(pixels, transform), (world, None)])


def asdf_extension(wcs):
    """The table extension in which JWST images keep their gwcs."""
    import asdf

    buffer = io.BytesIO()
    asdf.AsdfFile({"meta": {"wcs": wcs}}).write_to(buffer)
    raw = np.frombuffer(buffer.getvalue(), np.uint8)
    column = fits.Column("ASDF_METADATA", format=f"{len(raw)}B", array=raw[None, :])
    return fits.BinTableHDU.from_columns([column], name="ASDF")
