"""What the application needs around it in tests: time that passes while somebody waits, parts to remove."""

from __future__ import annotations

from collections.abc import Callable


class WaitingTime:
    """A clock moved by whoever pauses; what is planned for a moment happens when it is reached."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self._plans: list[tuple[float, Callable[[], object]]] = []

    def at(self, moment: float, action: Callable[[], object]) -> None:
        """Plan an action, in seconds since the beginning."""
        self._plans.append((moment, action))
        self._plans.sort(key=lambda plan: plan[0])

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self.now

    def pause(self, seconds: float) -> None:
        """Let so much time pass."""
        self.pauses.append(seconds)
        end = self.now + seconds
        while self._plans and self._plans[0][0] <= end:
            self.now, action = self._plans.pop(0)
            action()
        self.now = end


class Parts:
    """The parts a server is not ready without, to be switched off."""

    def __init__(self) -> None:
        self.broker = True
        self.migrated = True
