"""`python -m beamnode` is the command `beamnode`."""

import sys

from beamnode.cli.main import main

sys.exit(main())
