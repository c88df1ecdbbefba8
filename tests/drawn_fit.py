"""A stand-in for the fit with draws that depend on seed, neighbours and number."""

import jax
import numpy as np
from test_run import StandInFit

from jaxpho.fit.start import tangent_offsets

PATCHES = {"min_radius": 1.0, "max_radius": 1.6, "max_active": 1}
"""Each source of the small field in patches of its own; 2 and 3 are neighbours."""
SAMPLE = {"method": "nuts", "num_samples": 20, "num_chains": 2}


class DrawnFit(StandInFit):
    """Draws around what the neighbours' fluxes add up to."""

    def __call__(self, packed, peaks, options, sampling, *, key, checkpoint=None, **more):
        result = super().__call__(packed, peaks, options, sampling, key=key, **more)
        held = [p.flux["flux", "g"] for p in peaks if "all" in p.fixed]
        for k, (s, name, _) in enumerate(result.labels):
            if name == "flux":
                result.theta[k] += 0.1 * np.sin(sum(held))
            elif name in ("ra", "dec"):  # where it begins, seen from anywhere
                place = tangent_offsets(peaks[s].ra, peaks[s].dec, packed.reference)
                result.theta[k] = place[("ra", "dec").index(name)]
        if sampling.method != "none":
            rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
            shape = (sampling.num_chains, sampling.num_samples, len(result.theta))
            sigma = np.where([n == "flux" for _, n, _ in result.labels], 1.0, 0.05)
            result.samples = (result.theta + sigma * rng.normal(size=shape)).astype(np.float32)
            result.diagnostics |= {"divergences": 0, "method": "nuts"}
        return result
