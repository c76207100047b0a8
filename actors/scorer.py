"""The scorer: a plain class around the serving weights. In the demo one instance lives in a Ray actor of its own.

Importing this module imports torch; only the process that scores does it (`actors.handles` names it, never imports it early).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from model.artefact import CHAMPION, load_alias
from model.features import WIDTH
from model.score import CHUNK, Rows, Scores, joined, pack, unpack


class Scorer:
    """Answers with the weights that `alias` names in the folder. One caller at a time; blocks while it computes."""

    def __init__(self, weights: str | Path, alias: str = CHAMPION) -> None:
        """Raises ArtefactRefused when the weights cannot be trusted."""
        self.folder = Path(weights)
        self.alias = alias
        self.reload()

    def reload(self) -> str:
        """Loads what the alias names now and returns its version. When it is refused the old weights go on serving, and it raises."""
        self.network, self.manifest = load_alias(self.folder, self.alias)
        return self.manifest.version

    @property
    def version(self) -> str:
        return self.manifest.version

    def score(self, rows: Rows) -> Scores:
        """One answer per row, in order. Raises ValueError for rows of another shape."""
        return joined([unpack(self.network.score(rows[at : at + CHUNK], self.version)) for at in range(0, max(len(rows), 1), CHUNK)])

    def score_bytes(self, rows: bytes) -> bytes:
        """The same between processes: contiguous float32 rows in, packed scores out."""
        return pack(self.network.score(np.frombuffer(rows, np.float32).reshape(-1, WIDTH), self.version))

    def health(self) -> dict[str, str]:
        return {"version": self.version, "created_from": self.manifest.created_from, "schema_hash": self.manifest.schema_hash}
