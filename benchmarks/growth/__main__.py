"""`python -m benchmarks.growth`."""

import sys

from benchmarks.growth import main

sys.exit(main(sys.argv[1:]))
