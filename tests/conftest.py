"""What every test run shares: which tests used a real service, and the lines that say so."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings

# The same examples in every run: what fails here fails there, too.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@dataclass
class ServiceReport:
    """Which real services this run used, and how many tests ran against each.

    A service is known by its marker. Integration fixtures call `started` or `missing`; the counts
    come from the outcome of marked tests.
    """

    titles: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    executed: Counter[str] = field(default_factory=Counter)

    def started(self, marker: str, version: str = "") -> None:
        """Note that the service runs, in this version if it has one worth telling."""
        self.versions[marker] = version

    def missing(self, marker: str, reason: str) -> None:
        """Note why the service does not run."""
        self.reasons[marker] = reason

    def count(self, report: pytest.TestReport) -> None:
        """Count a test that executed, whether it passed or failed; a skipped one did not."""
        executed = report.when == "call" and (not report.skipped or hasattr(report, "wasxfail"))
        for marker in self.titles:
            if executed and marker in report.keywords:
                self.executed[marker] += 1

    def lines(self) -> list[str]:
        """Return one line per service."""
        return [self._line(marker, title) for marker, title in self.titles.items()]

    def _line(self, marker: str, title: str) -> str:
        tests = self.executed[marker]
        if tests:
            name = f"{title} {self.versions.get(marker, '')}".strip()
            return f"{name}: {tests} {'test' if tests == 1 else 'tests'}"
        reason = self.reasons.get(marker, "no test that ran needs it")
        return f"{title}: not run ({reason})"


REPORT = pytest.StashKey[ServiceReport]()


def pytest_configure(config: pytest.Config) -> None:
    report = ServiceReport(
        {"real_kafka": "real Apache Kafka", "real_registry": "real schema registry"}
    )
    config.stash[REPORT] = report
    config.pluginmanager.register(Counting(report), "service-report")


class Counting:
    """Hands the outcome of each test to the report: that hook is not given the configuration."""

    def __init__(self, report: ServiceReport) -> None:
        self._report = report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._report.count(report)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    """Close the report with the services, after the list of failures and skips."""
    yield
    for line in config.stash[REPORT].lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def service_report(request: pytest.FixtureRequest) -> ServiceReport:
    """Where integration fixtures say which services run and which do not."""
    return request.config.stash[REPORT]
