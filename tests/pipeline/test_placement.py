"""Java's partitioner, and assets in places where they should not be."""

from __future__ import annotations

import pytest

from pipeline.placement import Placement, java_partition, murmur2


@pytest.mark.parametrize(
    ("key", "expected"), [(b"21", -973932308), (b"foobar", -790332482), (b"abc", 479470107)]
)
def test_murmur2_gives_the_values_of_the_java_client(key, expected):
    assert murmur2(key) == expected


def test_a_key_goes_where_a_java_producer_puts_it():
    assert java_partition(b"BTC-USD", 12) == 9


def test_assets_in_wrong_and_in_several_partitions_are_counted_once():
    placement = Placement(12)
    placement.first_seen(9, ["BTC-USD"])
    placement.first_seen(9, ["BTC-USD"])
    placement.first_seen(3, ["BTC-USD"])

    assert (placement.misplaced, placement.split) == (1, 1)


def test_a_partition_that_is_given_away_is_forgotten():
    placement = Placement(12)
    placement.first_seen(9, ["BTC-USD"])
    placement.forget(9, ["BTC-USD"])
    placement.first_seen(9, ["BTC-USD"])

    assert placement.split == 0
