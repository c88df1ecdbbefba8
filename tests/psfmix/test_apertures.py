"""Light within circles, against areas that are known."""

import numpy as np
import pytest

from psfmix.apertures import light_within, overlap

RADII = np.array([0.01, 0.3, 0.5, 0.7, 1.0, 1.37, 2.0, 3.9])


@pytest.mark.parametrize("center", [(5.0, 5.0), (5.3, 4.6), (5.5, 5.5)])
def test_an_even_image_gives_the_area_of_the_circle(center):
    found = light_within(np.ones((11, 12)), center, RADII)
    np.testing.assert_allclose(found, np.pi * RADII**2, rtol=1e-12)


def test_beyond_the_image_and_where_nothing_is_known():
    image = np.ones((3, 3))
    image[0, 0] = np.nan
    assert light_within(image, (1, 1), [9.0])[0] == pytest.approx(8)


def test_a_part_of_a_pixel():
    """Against a count of 400 x 400 points in the pixel: good to their number along the edge."""
    step = (np.arange(400) + 0.5) / 400 - 0.5
    px, py = np.meshgrid(1.2 + step, -0.4 + step)
    for radius in (0.9, 1.3, 1.7):
        count = np.mean(px**2 + py**2 < radius**2)
        assert overlap(np.array([1.2]), np.array([-0.4]), radius)[0] == pytest.approx(
            count, abs=2e-3
        )
