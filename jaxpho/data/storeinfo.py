"""What `jaxpho preprocess` notes beside the pixels of an exposure, as an attribute in JSON."""

from __future__ import annotations

import json

INFO = "jaxpho"
"""Attribute of an exposure's data set. Other readers of pixel stores pass it over."""


def read_info(attrs) -> dict:
    """What an exposure of a pixel store was made from; empty when another program stored it.

    Returns
    -------
    dict
        digest : checksum of input and options; summary : its row of the table of exposures;
        blank : `jaxpho.data.sky.SkyStatistics`; fields, row : what templates may use.
    """
    try:
        return dict(json.loads(attrs[INFO]))
    except (KeyError, TypeError, ValueError):
        return {}
