"""What is started and stopped: a machine, a node, a cluster."""

from abc import ABC, abstractmethod
from typing import Self


class Started(ABC):
    """Runs for the length of a `with` block. A start that fails half-way leaves nothing behind."""

    @abstractmethod
    def start(self) -> None:
        """Return when it is up."""

    @abstractmethod
    def stop(self) -> None:
        """End it, however far `start` came, with all that it made."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
