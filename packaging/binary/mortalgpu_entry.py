"""What the frozen program runs: `mortalgpu`, or `mgctl` when it goes by that name."""

from mortalgpu.__main__ import main

main()
