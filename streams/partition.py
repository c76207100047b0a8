"""Which partition a key belongs to: murmur2, as Kafka's Java clients and aiokafka compute it (librdkafka's default differs)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SEED = 0x9747B28C
_M = 0x5BD1E995
_FEW = 8  # below so many keys plain Python is faster than setting up arrays
_LONG = 256  # bytes; longer keys are hashed one by one, so that one of them does not widen the whole array


def murmur2(key: bytes) -> int:
    """The 32-bit hash, unsigned."""
    length = len(key)
    h = (_SEED ^ length) & 0xFFFFFFFF
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * _M & 0xFFFFFFFF
        k = (k ^ k >> 24) * _M & 0xFFFFFFFF
        h = h * _M & 0xFFFFFFFF ^ k
    if whole < length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & 0xFFFFFFFF
    h = (h ^ h >> 13) * _M & 0xFFFFFFFF
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    """murmur2(key), made positive, mod n."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def partitions_of(keys: Sequence[bytes], partitions: int) -> list[int]:
    """The same for many keys at once: about 0.3 us a key instead of 3 to 10."""
    if len(keys) < _FEW or max(map(len, keys)) > _LONG:
        return [partition_of(key, partitions) for key in keys]
    found: list[int] = ((_hashes(keys) & np.uint32(0x7FFFFFFF)) % np.uint32(partitions)).tolist()
    return found


def misplaced(keys: Sequence[str], partition: int, partitions: int) -> set[str]:
    """Those of the keys that belong to another partition than this one."""
    places = partitions_of([key.encode() for key in keys], partitions)
    return {key for key, place in zip(keys, places, strict=True) if place != partition}


def split(records: Sequence[tuple[bytes | None, bytes]], partitions: int, turn: int) -> dict[int, list[tuple[bytes | None, bytes]]]:
    """Records by partition, in their order. Those without a key stay together; `turn` says where."""
    parts: dict[int, list[tuple[bytes | None, bytes]]] = {}
    keys = [key for key, _ in records if key is not None]
    if len(keys) == len(records):
        places = partitions_of(keys, partitions)
    else:
        keyed = iter(partitions_of(keys, partitions))
        places = [turn % partitions if key is None else next(keyed) for key, _ in records]
    for place, record in zip(places, records, strict=True):
        part = parts.get(place)
        if part is None:
            parts[place] = [record]
        else:
            part.append(record)
    return parts


def _hashes(keys: Sequence[bytes]) -> NDArray[np.uint32]:
    """Column by column of four bytes over all keys; a key that has ended keeps its hash."""
    m = np.uint32(_M)
    lengths = np.fromiter(map(len, keys), np.uint32, len(keys))
    width = (int(lengths.max()) + 3) // 4
    padded = b"".join([key.ljust(width * 4, b"\0") for key in keys])
    words = np.frombuffer(padded, "<u4").reshape(len(keys), width) if width else np.zeros((len(keys), 0), np.uint32)
    whole = lengths >> np.uint32(2)
    h = np.uint32(_SEED) ^ lengths
    shortest, longest = (int(whole.min()), int(whole.max())) if len(keys) else (0, 0)
    for i in range(longest):
        k = words[:, i] * m
        k ^= k >> np.uint32(24)
        k *= m
        mixed = h * m ^ k
        h = mixed if i < shortest else np.where(whole > i, mixed, h)
    rest = np.flatnonzero(lengths & np.uint32(3))
    if rest.size:
        h[rest] = (h[rest] ^ words[rest, whole[rest]]) * m  # the padding is zero, so the last word is the rest
    h ^= h >> np.uint32(13)
    h *= m
    h ^= h >> np.uint32(15)
    return h
