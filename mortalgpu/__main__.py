"""Which face am I? Chooses mgctl or a sub-command, and turns the outcome into an exit code; the only file that exits."""

import sys


def main() -> None:
    """Entry point of `mortalgpu`."""
    sys.exit(0)


def mgctl_main() -> None:
    """Entry point of `mgctl`."""
    sys.exit(0)


if __name__ == "__main__":
    main()
