"""What the best possible fit would find: Fisher errors at the truth, from GalSim alone.

The comparison of the demo needs a rule for "well constrained" that looks neither at the fit nor
at the truth minus the fit. This is it: the Cramer-Rao error of each parameter, from finite
differences of GalSim images at the true values, with the noise and the masks of the actual
exposures, jointly for the members of a blend. The same matrix gives the linearised optimum (the
truth plus the shift this noise produces), which a correct fit must land on closely.
"""

from dataclasses import replace

import galsim
import numpy as np

STEPS = {"x": 0.01, "y": 0.01, "rhalf": 0.01, "sersic": 0.02, "e1": 0.01, "e2": 0.01}
RELATIVE = ("rhalf", "sersic")  # their steps are relative
QUICK = galsim.GSParams()  # derivatives need per cent, not 1e-4
HALF = 6.0  # half-width of the window around a source, arcsec


def window(exposure, members):
    """The pixels around a group of sources, clipped to the image."""
    half = HALF / exposure.band.scale
    at = [exposure.position(s) for s in members]
    x0, x1 = min(p.x for p in at) - half, max(p.x for p in at) + half
    y0, y1 = min(p.y for p in at) - half, max(p.y for p in at) + half
    n = exposure.band.npix
    box = galsim.BoundsI(int(x0), int(x1), int(y0), int(y1))
    return box & galsim.BoundsI(1, n, 1, n)


def derivatives(exposure, source, box):
    """{parameter: image in counts} of one source in one exposure over ``box``."""
    band = exposure.band.name
    counts = source.flux[band] / exposure.to_njy
    at = exposure.position(source)
    profile = exposure.profile(source, gsparams=QUICK)
    result = {f"flux_{band}": exposure.draw(profile, at, box) / exposure.to_njy}

    for name, axis in (("x", 0), ("y", 1)):
        pair = []
        for sign in (1, -1):
            moved = replace(source, **{name: getattr(source, name) + sign * STEPS[name]})
            pair.append(exposure.draw(profile, exposure.position(moved), box))
        result["ra" if axis == 0 else "dec"] = (pair[0] - pair[1]) * counts / (2 * STEPS[name])
    if source.type == "point":
        return result

    e = np.array(source.shape)
    for name in ("rhalf", "sersic", "e1", "e2"):
        pair = []
        value = getattr(source, name, 1.0)
        step = STEPS[name] * (value if name in RELATIVE else 1.0)
        for sign in (1, -1):
            if name in RELATIVE:
                change = {name: value + sign * step}
            else:
                change = {"e": e + sign * step * np.eye(2)[int(name[1]) - 1]}
            pair.append(exposure.draw(exposure.profile(source, **change, gsparams=QUICK), at, box))
        result[name] = (pair[0] - pair[1]) * counts / (2 * step)
    return result


def forecast(exposures, groups, residuals, weights):
    """Fisher errors and linearised shifts.

    Parameters
    ----------
    exposures : list of demo_field.Exposure
    groups : list of list of demo_field.Source
        sources that are solved for together.
    residuals, weights : dict of name -> array [ny, nx]
        data minus true model in counts, and 1/sigma^2 (0 where masked).

    Returns
    -------
    dict of source id -> dict of parameter -> (sigma, shift), in the unit of the parameter;
    ra and dec in arcsec (RA times cos dec).
    """
    result = {}
    for members in groups:
        keys, normal, right = [], None, None
        for s in members:
            names = ["ra", "dec"] + [f"flux_{b}" for b in s.flux]
            names += ["rhalf", "sersic", "e1", "e2"] if s.type == "sersic" else []
            keys += [(s.id, name) for name in names]
        normal, right = np.zeros((len(keys), len(keys))), np.zeros(len(keys))
        for exposure in exposures:
            box = window(exposure, members)
            cut = np.s_[box.ymin - 1 : box.ymax, box.xmin - 1 : box.xmax]
            w, r = weights[exposure.name][cut].ravel(), residuals[exposure.name][cut].ravel()
            jacobian = np.zeros((len(keys), w.size))
            for s in members:
                for name, image in derivatives(exposure, s, box).items():
                    jacobian[keys.index((s.id, name))] = image.ravel()
            normal += (jacobian * w) @ jacobian.T
            right += (jacobian * w) @ r
        scale = 1 / np.sqrt(np.diag(normal))  # nJy and arcsec differ by 1e5
        covariance = np.linalg.inv(normal * np.outer(scale, scale)) * np.outer(scale, scale)
        shift = covariance @ right
        for i, (source, name) in enumerate(keys):
            result.setdefault(source, {})[name] = (float(np.sqrt(covariance[i, i])), shift[i])
    return result
