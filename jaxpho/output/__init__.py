"""Catalogues, chains, residual images and pictures."""
