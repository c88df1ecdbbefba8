"""`python -m jaxpho`: the umbrella command."""

import sys

from jaxpho.cli import main

sys.exit(main())
