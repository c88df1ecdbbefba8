"""decam_8exp_grz in two halves of its exposures: do the errors account for the differences?"""

import numpy as np
import pytest
from realdata.common import CONFIGS, NMGY, read_tractor
from scipy.stats import chi2

from jaxpho.config import load_config
from jaxpho.data.pack import pack_patch
from jaxpho.fit.driver import fit_patch
from jaxpho.prepare import prepare_psfs
from jaxpho.run.field import load_field

pytestmark = pytest.mark.realdata
BANDS = "grz"
GALAXY, STAR = 1, 0
CATALOG = "decam_8exp_grz/reference_legacypipe_DR9.6.9/tractor/244/tractor-2447p120.fits"
LARGEST, LEAST_P = 3.0, 0.01  # combined sigma of one parameter; of the vector of differences
OFFSET, SKY = 0.03, 0.02
"""Priors of each exposure's own offset [arcsec] and sky [sigma of a pixel]. Without them p is .003:
offsets of .02 to .03", and skies that differ by what the wings of the galaxy hide."""


@pytest.fixture(scope="module")
def field(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPHO_DATA", str(data_dir.resolve()))
        config = load_config(CONFIGS / "decam.yml", output=str(folder / "run"))
        return load_field(
            config, lambda e, p: prepare_psfs(e, p, folder / "psf.h5", lambda *_: None)
        )


def fit(field, exposures, free=True):
    """The fit of some exposures, each with its own offset and sky."""
    for e in exposures:
        own = e.nuisance
        own.offset_sigma, own.sky = (OFFSET, "constant") if free else (0.0, "none")
        own.sky_sigma = SKY * e.typical_error if free else 0.0
    packed = pack_patch(exposures, field.peaks, bands=list(BANDS))
    return fit_patch(packed, field.peaks)


def halves(field):
    """Every other exposure of each band, and the rest."""
    by_band = [[e for e in field.exposures if e.band == b] for b in BANDS]
    return [sum((band[k::2] for band in by_band), []) for k in (0, 1)]


def difference(a, b, source):
    """Differences of a source's parameters, and their covariance."""
    labels = [label for label in a.labels if label[0] == source]
    i, j = ([r.labels.index(label) for label in labels] for r in (a, b))
    covariance = a.covariance[np.ix_(i, i)] + b.covariance[np.ix_(j, j)]
    return a.theta[i] - b.theta[j], covariance


def test_halves_agree(field):
    a, b = (fit(field, exposures) for exposures in halves(field))
    for source in (GALAXY, STAR):
        change, covariance = difference(a, b, source)
        assert np.abs(change / np.sqrt(np.diag(covariance))).max() < LARGEST
        found = change @ np.linalg.solve(covariance, change)
        assert chi2.sf(found, len(change)) > LEAST_P


def test_errors_of_fluxes_against_tractor(field, data_dir):
    """Tractor's are those with everything else held."""
    result = fit(field, field.exposures, free=False)
    held = 1 / np.sqrt(np.diag(np.linalg.inv(result.covariance)))
    tractor = read_tractor(data_dir / CATALOG)
    for source in (GALAXY, STAR):
        for band in BANDS:
            ours = held[result.labels.index((source, "flux", band))] / NMGY
            theirs = tractor[str(source)][f"flux_ivar_{band}"] ** -0.5
            assert ours == pytest.approx(theirs, rel=0.1), (source, band)
