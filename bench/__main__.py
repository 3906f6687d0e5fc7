"""`python -m bench`: the table."""

import sys

from bench.run import main

sys.exit(main())
