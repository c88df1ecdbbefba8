"""Transforms, priors, optimisation and sampling."""
