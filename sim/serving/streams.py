"""An engine's two streams, compute and communication, on ranks of a few speeds: when each is free."""

from collections.abc import Sequence

Row = tuple[list[float], list[list[list[float]]]]
"""A stage: seconds of each part's kernels, and of each of its exchanges behind them, by class of ranks."""


class Streams:
    """When the two streams of each class of ranks are free, and when each part has got as far as it has there.

    speeds: seconds of a kernel on each class, the slowest's taken as 1.
    """

    def __init__(self, speeds: Sequence[float], parts: int) -> None:
        self.speeds = speeds
        self.ends_s = [[0.0] * len(speeds) for _ in range(parts)]
        self.free_s, self.sending_s = ([0.0] * len(speeds) for _ in range(2))

    @property
    def end_s(self) -> float:
        """When everything has ended."""
        return max(map(max, self.ends_s))

    def state(self) -> list[float]:
        """Every moment that it knows, in one list."""
        return [*self.free_s, *self.sending_s, *(end for ends in self.ends_s for end in ends)]

    def wait(self, seconds: float) -> None:
        """Everything that much later."""
        for moments in (self.free_s, self.sending_s, *self.ends_s):
            moments[:] = [moment + seconds for moment in moments]

    def compute(self, part: int, seconds: float) -> None:
        """Kernels on the compute stream."""
        free, ends = self.free_s, self.ends_s[part]
        for g, speed in enumerate(self.speeds):
            free[g] = ends[g] = max(free[g], ends[g]) + seconds * speed

    def send(self, part: int, left_s: Sequence[float]) -> None:
        """An exchange, which begins when the last has come and which each class leaves in its time."""
        begin = max(*self.sending_s, *self.ends_s[part])
        self.sending_s[:] = self.ends_s[part][:] = [begin + seconds for seconds in left_s]

    def layer(self, rows: Sequence[Row]) -> None:
        """The stages of a layer, each with what is exchanged behind it."""
        for computed, exchanges in rows:
            for part, seconds in enumerate(computed):
                self.compute(part, seconds)
                for left_s in exchanges[part]:
                    self.send(part, left_s)
