"""Keys go where Kafka's Java clients put them."""

from __future__ import annotations

from aiokafka.partitioner import murmur2 as their_murmur2
from hypothesis import given
from hypothesis import strategies as st

from streams.partition import murmur2, partition_of, partitions_of


@given(st.binary(max_size=300))
def test_the_hash_is_that_of_the_java_client(key: bytes) -> None:
    assert murmur2(key) == their_murmur2(key) & 0xFFFFFFFF


@given(st.lists(st.binary(max_size=300), max_size=60), st.integers(1, 5000))
def test_many_keys_at_once_go_where_each_alone_would(keys: list[bytes], partitions: int) -> None:
    expected = [(their_murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
    assert partitions_of(keys, partitions) == expected
    assert [partition_of(key, partitions) for key in keys] == expected


def test_known_values_of_the_java_client_hold() -> None:
    # from Kafka's own UtilsTest.testMurmur2
    known = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    assert {key: murmur2(key) for key in known} == {key: value & 0xFFFFFFFF for key, value in known.items()}
