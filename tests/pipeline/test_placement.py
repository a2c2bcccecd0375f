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
    for partition in (9, 9, 3, 3):
        placement.ticked(partition, "BTC-USD", has_key=True)

    assert (placement.misplaced, placement.split) == (1, 1)


def test_a_tick_without_a_key_is_not_misplaced_and_its_asset_may_still_be_split():
    placement = Placement(12)
    for partition in (3, 4):
        placement.ticked(partition, "BTC-USD", has_key=False)

    assert (placement.misplaced, placement.split) == (0, 1)


def test_a_restored_asset_is_judged_by_its_next_tick():
    placement = Placement(12)
    placement.restored(3, ["keyed", "keyless"])
    before = placement.misplaced

    placement.ticked(3, "keyed", has_key=True)
    placement.ticked(3, "keyed", has_key=True)
    placement.ticked(3, "keyless", has_key=False)

    assert java_partition(b"keyed", 12) != 3
    assert (before, placement.misplaced) == (0, 1)
    assert placement.unchecked == set()


def test_a_partition_that_is_given_away_is_forgotten():
    placement = Placement(12)
    placement.ticked(9, "BTC-USD", has_key=True)
    placement.restored(9, ["other"])
    placement.forget(9, ["BTC-USD", "other"])
    placement.ticked(9, "BTC-USD", has_key=True)

    assert placement.split == 0
    assert placement.unchecked == set()
