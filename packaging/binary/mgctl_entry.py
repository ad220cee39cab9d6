"""What the frozen mgctl runs: mgctl alone, without the daemon's modules."""

import sys

from mortalgpu.mgctl.main import run

sys.exit(run(sys.argv[1:]))
