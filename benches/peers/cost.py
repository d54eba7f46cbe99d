"""What a run costs."""


class Cost:
    """Seconds of wall time and of processors."""

    def __init__(self, wall, cpu):
        self.wall, self.cpu = wall, cpu

    def __sub__(self, other):
        return Cost(self.wall - other.wall, self.cpu - other.cpu)
