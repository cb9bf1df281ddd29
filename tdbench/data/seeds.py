"""Seeds of a run's several purposes, none of which tells anything of another."""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed for one purpose of a run (63 bits), independent of those for its other purposes."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
