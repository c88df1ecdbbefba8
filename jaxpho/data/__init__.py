"""Host side: images, WCS, PSF stores, catalogues, packing."""
