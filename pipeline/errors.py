"""Errors that a user sees as one line, and the exit codes behind them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    FAILED = 1
    """The command ran, and what it did or found is a failure (records not delivered)."""
    USAGE = 2
    CONFIGURATION = 3
    PREFLIGHT = 4
    """Broker or registry unreachable, a topic missing or with a wrong partition count."""
    FENCED = 5
    AUTHENTICATION = 6
    DATA_LOSS_POLICY = 7


class UserError(Exception):
    """Ends a command: the message is one line that names the field and the remedy."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code
