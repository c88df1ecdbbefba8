"""A report of a run: a folder of HTML pages that needs no network and no server."""
