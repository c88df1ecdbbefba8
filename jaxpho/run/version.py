"""The version of the installed distribution, without importing the whole package."""

from importlib import metadata


def version() -> str:
    """Version of jaxpho; "unknown" when the source tree is used without installing it."""
    try:
        return metadata.version("jaxpho")
    except metadata.PackageNotFoundError:
        return "unknown"
