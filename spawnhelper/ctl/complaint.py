"""What spawnctl cannot do, as a sentence and an exit status."""

from __future__ import annotations


class Complaint(Exception):
    """Ends spawnctl; str() is the sentence, status one of sysexits.h unless the verb has others."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
