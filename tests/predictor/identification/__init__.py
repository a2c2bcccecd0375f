"""Tests of system identification."""
