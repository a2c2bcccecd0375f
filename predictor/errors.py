"""Errors and warnings of the library, named for what the caller should do about them."""

from __future__ import annotations


class DomainError(ValueError):
    """An argument is no number at all; a number that cannot be believed raises nothing, the
    gates answer it."""


class IntegrityError(Exception):
    """A stored file is damaged, of another version or of another structure: do not use it."""


class ConfigMutationError(Exception):
    """A change of the configuration was refused; the old one stays in force."""


class StalenessWarning(UserWarning):
    """The gap before a tick was too long; fusion weights are held until the feed recovers."""


class FrequencyWarning(UserWarning):
    """The feed is sampled too sparsely for the Hölder exponent, which keeps its last value."""
