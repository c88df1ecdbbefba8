"""PSF images into Gaussian mixtures."""
