"""What an operator should know and no error shows, said now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pipeline.log import Log
from pipeline.placement import Placement

REPORT_SECONDS = 10.0
"""Least time between two reports of the same kind."""

ASSIGNMENT_SECONDS = 30.0
REPEAT_SECONDS = 30.0
"""A complaint that goes on is said again after this."""


class Reports:
    """Warnings of a worker that runs."""

    def __init__(
        self,
        log: Log,
        protocol: str,
        placement: Placement,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._protocol = protocol
        self._placement = placement
        self._monotonic = monotonic
        self._placement_said = (0, 0)
        self._next = 0.0
        self._assigned_once = False
        self._expect_assignment_by = monotonic() + ASSIGNMENT_SECONDS
        self._said: dict[str, float] = {}

    def assigned(self) -> None:
        """The group has answered."""
        self._assigned_once = True

    def complaints(self, complaints: Mapping[str, str]) -> None:
        """What a client complained about without giving up."""
        now = self._monotonic()
        for name, text in complaints.items():
            if now >= self._said.get(name, 0.0):
                self._said[name] = now + REPEAT_SECONDS
                self._log.warning("client_complains", error=name, detail=text)

    def turn(self) -> None:
        """Say what is new, not too often."""
        now = self._monotonic()
        if not self._assigned_once and now > self._expect_assignment_by:
            self._expect_assignment_by = now + ASSIGNMENT_SECONDS
            self._log.warning(
                "no_assignment_yet",
                protocol=self._protocol,
                remedy='kafka.group_protocol = "consumer" needs brokers 4.0 or newer; a static '
                "member waits for its session, at most kafka.session_timeout_ms",
            )
        found = (self._placement.misplaced, self._placement.split)
        if found != self._placement_said and now >= self._next:
            self._next = now + REPORT_SECONDS
            self._placement_said = found
            self._log.warning(
                "placement",
                assets_not_where_murmur2_puts_them=found[0],
                assets_in_several_partitions=found[1],
                meaning="state belongs to (partition, asset); give producers "
                "partitioner=murmur2_random",
            )
