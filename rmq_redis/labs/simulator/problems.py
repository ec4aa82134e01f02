"""What a strategy did wrong, and how often."""

from __future__ import annotations


class Problems:
    """Keeps the first text and counts all."""

    def __init__(self) -> None:
        self.first = ""
        self.count = 0

    def add(self, text: str) -> None:
        self.first = self.first or text
        self.count += 1

    def raised(self, error: BaseException, where: str = "") -> None:
        self.add(f"raised {type(error).__name__}{where}: {error}")
