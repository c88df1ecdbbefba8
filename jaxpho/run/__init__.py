"""A run: `patches.run` fits and writes, `estimate.dry_run` tells what a run would do."""
