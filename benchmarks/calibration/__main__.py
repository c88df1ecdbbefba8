"""`python benchmarks/calibration`: see `calibration.cli`."""

import sys
from pathlib import Path

# the folder above instead of this one: modules are imported as `calibration.x`
sys.path[0] = str(Path(__file__).resolve().parents[1])

from calibration.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
