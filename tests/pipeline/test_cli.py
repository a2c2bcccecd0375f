"""The command line: exit codes, one-line errors, help that teaches."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.broker import running_broker
from pipeline.cli import run_command
from pipeline.synthetic import PROCESSES, series

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "demo",
    "run",
    "produce",
    "watch",
    "backtest",
    "broker",
    "topics plan",
    "topics apply",
    "config check",
    "config show",
    "bench step",
)
"""All there are; what is not here must not be offered."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run in an empty folder without settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("USP__"):
            monkeypatch.delenv(name)


@pytest.fixture
def usp(capfd):
    """Run a command line in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run_command(arguments)
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def broker(monkeypatch):
    with running_broker({}) as address:
        monkeypatch.setenv("USP__KAFKA__BOOTSTRAP_SERVERS", address)
        yield address


def one_line(text: str) -> str:
    assert text.startswith("usp: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


# -- help ------------------------------------------------------------------------------------------


def test_help_lists_these_commands_and_no_others(usp):
    import typer.main

    from pipeline.cli import app

    def names(group, prefix=""):
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from names(command, f"{name} ")
            else:
                yield prefix + name

    assert sorted(names(typer.main.get_command(app))) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(usp, command):
    code, out, _ = usp(*command.split(), "--help")
    assert code == 0
    assert f"$ usp {command}" in out


def test_help_loads_nothing_but_what_prints_it():
    code = (
        "import sys, pipeline.cli as c; c.run_command(['--help']);"
        "print(*{m.split('.')[0] for m in sys.modules} - sys.stdlib_module_names, file=sys.stderr)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    loaded = set(answer.stderr.split())
    assert {"pipeline", "typer"} < loaded
    assert not loaded & {"confluent_kafka", "fastavro", "jax", "matplotlib", "numpy", "predictor"}
    assert len(loaded) < 20


def test_module_and_entry_point_are_one():
    answer = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert answer.returncode == 0
    assert "Usage: usp" in answer.stdout


# -- usage and configuration -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "nonsense"),
        (["produce", "--rat", "3"], "--rat"),
        (["produce"], "--synthetic"),
        (["produce", "a.csv", "--synthetic", "ar1"], "FILE"),
        (["produce", "a.csv", "--rate", "1", "--speed", "1"], "--speed"),
        (["produce", "a.csv"], "no such file"),
        (["produce", "--synthetic", "nonsense"], "random_walk"),
        (["topics", "apply", "--partitions", "0"], "--partitions"),
        (["backtest", "a.csv", "--plot", "a.gif"], ".png"),
        (["backtest", "a.csv"], "no such file"),
        (["broker", "--topic", "x"], "--topic"),
        (["watch", "--sort", "colour"], "--sort"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_2(usp, arguments, says):
    if arguments[0] == "produce" and "a.csv" in arguments:
        arguments = [*arguments, "--dry-run"]
    code, out, err = usp(*arguments)
    assert code == 2
    assert out == ""
    assert says in one_line(err)


def test_no_command_shows_the_help_and_exits_with_2(usp):
    code, out, err = usp()
    assert code == 2
    assert "Usage: usp" in out + err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[kafka]\nboot = 1\n", "kafka.boot"),
        ("[kafka\n", "wrong.toml"),
        ("[worker]\nmax_batch = 0\n", "worker.max_batch"),
    ],
)
def test_a_configuration_error_is_one_line_and_exit_code_3(usp, text, says):
    Path("wrong.toml").write_text(text)
    for command in (["config", "check"], ["run"], ["topics", "apply"], ["bench", "step"]):
        code, out, err = usp(*command, "--config", "wrong.toml")
        assert code == 3
        assert out == ""
        assert says in one_line(err)


def test_a_given_file_that_does_not_exist_is_a_configuration_error(usp):
    code, _, err = usp("config", "check", "--config", "nowhere.toml")
    assert code == 3
    assert "nowhere.toml" in one_line(err)


def test_the_default_file_is_taken_where_it_exists(usp):
    assert usp("config", "check")[0] == 0
    Path("config.toml").write_text('[kafka]\napplication_id = "mine"\n')
    assert tomllib.loads(usp("config", "show")[1])["kafka"]["application_id"] == "mine"
    Path("config.toml").write_text("[nonsense]\n")
    assert usp("config", "check")[0] == 3


def test_the_environment_wins_over_the_file(usp, monkeypatch):
    Path("config.toml").write_text('[kafka]\napplication_id = "mine"\n')
    monkeypatch.setenv("USP__KAFKA__APPLICATION_ID", "theirs")
    assert json.loads(usp("config", "show", "--json")[1])["kafka"]["application_id"] == "theirs"


def test_the_shipped_file_loads_and_changes_no_default_that_forecasts_depend_on(usp):
    code, shipped, _ = usp("config", "check", "--config", str(ROOT / "config.toml"), "--json")
    assert code == 0
    assert json.loads(shipped) == json.loads(usp("config", "check", "--json")[1])


def test_check_says_ok_and_the_hash(usp):
    code, out, _ = usp("config", "check")
    assert code == 0
    assert out.startswith("ok")
    assert len(out.split()[-1]) == 64


def test_what_show_prints_loads_to_the_same_configuration(usp):
    _, first, _ = usp("config", "show")
    Path("again.toml").write_text(first)
    code, second, _ = usp("config", "show", "--config", "again.toml")
    assert code == 0
    assert first == second


def test_secrets_are_never_shown(usp, monkeypatch):
    monkeypatch.setenv("USP__KAFKA__EXTRA__SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("USP__SCHEMAS__REGISTRY_URL", "https://me:hunter2@registry:8081")
    for option in ([], ["--json"]):
        code, out, err = usp("config", "show", *option)
        assert code == 0
        assert "hunter2" not in out + err
        assert "registry:8081" in out


# -- preflight -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["run"], ["topics", "plan"], ["produce", "t.csv"], ["watch"]])
def test_an_unreachable_broker_is_exit_code_4(usp, monkeypatch, command):
    Path("t.csv").write_text("date,value\n1990-01-01,1\n")
    monkeypatch.setenv("USP__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("USP__WORKER__STARTUP_TIMEOUT_SECONDS", "0.5")
    if command == ["run"]:  # the worker sets signal handlers, so it gets a process of its own
        answer = subprocess.run(
            [sys.executable, "-m", "pipeline", "run"],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        code, err = answer.returncode, answer.stderr
    else:
        code, _, err = usp(*command)
    assert code == 4
    assert "127.0.0.1:1" in one_line(err)


@pytest.mark.parametrize("command", [["produce", "t.csv"], ["watch"]])
def test_a_missing_topic_is_exit_code_4(usp, broker, command):
    Path("t.csv").write_text("date,value\n1990-01-01,1\n")
    code, _, err = usp(*command)
    assert code == 4
    assert "usp topics apply" in one_line(err)


def test_a_plan_that_cannot_be_mended_is_shown_and_is_exit_code_4(usp, broker):
    assert usp("topics", "apply", "--partitions", "2")[0] == 0
    code, out, err = usp("topics", "plan", "--partitions", "3", "--json")
    assert code == 4
    assert json.loads(out)["topics"][0]["action"] == "refuse"
    assert "usp.ticks.v1" in one_line(err)


# -- data in and out -------------------------------------------------------------------------------


def test_topics_and_ticks_from_the_command_line(usp, broker):
    code, out, _ = usp("topics", "apply", "--partitions", "3", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["dry_run"] is True
    assert {step["action"] for step in json.loads(out)["topics"]} == {"create"}
    code, out, _ = usp("topics", "apply", "--partitions", "3", "--json")
    assert (code, json.loads(out)["dry_run"]) == (0, False)
    _, out, _ = usp("topics", "plan", "--json")
    assert {step["action"] for step in json.loads(out)["topics"]} == {"keep"}

    arguments = ["--synthetic", "ar1,ou", "--assets", "3", "--ticks", "50"]
    code, out, _ = usp("produce", *arguments, "--json")
    summary = json.loads(out)
    assert code == 0
    assert (summary["ticks"], summary["assets"], summary["failed"]) == (300, 6, 0)
    code, out, _ = usp("produce", *arguments, "--limit", "70")
    assert code == 0
    assert "produced 70 ticks of 6 assets" in out


def test_a_dry_run_of_produce_needs_no_broker(usp):
    Path("t.csv").write_text("date,value\n1990-01-01,1\n1990-01-02,\n1990-01-03,2\n")
    code, out, _ = usp("produce", "t.csv", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out) == {
        "ticks": 2,
        "assets": 1,
        "first": "1990-01-01T00:00:00.000000000Z",
        "last": "1990-01-03T00:00:00.000000000Z",
        "missing_values": 1,
        "skipped_rows": 0,
    }


def test_ticks_that_are_not_delivered_are_exit_code_1(usp, broker):
    usp("topics", "apply")
    Path("t.csv").write_text(f"date,asset,value\n1990-01-01,{'x' * 1_100_000},1\n")
    code, out, err = usp("produce", "t.csv", "--json")
    assert code == 1
    assert json.loads(out)["failed"] == 1
    assert "1 ticks were not delivered" in one_line(err)


def test_every_process_has_its_place_in_the_help_or_the_error(usp):
    _, _, err = usp("produce", "--synthetic", "nonsense")
    assert all(name in err for name in PROCESSES)


def test_a_backtest_prints_scores_and_draws(usp):
    rows = ["time,series,value"]
    for batch in series(["ar1", "random_walk"], 1, 60, seed=2):
        rows += [
            f"{stamp},{asset},{value!r}"
            for asset, value, stamp in zip(
                batch.asset_ids,
                batch.magnitudes.tolist(),
                batch.timestamps_ns.tolist(),
                strict=True,
            )
        ]
    Path("two.csv").write_text("\n".join(rows) + "\n")
    code, out, err = usp("backtest", "two.csv", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert [each["asset"] for each in report["assets"]] == ["ar1-000", "random_walk-000"]
    assert report["overall"]["ticks"] == 120
    picture, page = map(Path, report["plots"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert page.read_text().startswith("<!DOCTYPE html>")
    code, out, _ = usp("backtest", "two.csv", "--plot", "only.svg")
    assert "skill" in out
    assert out.count("picture: ") == 1
    assert Path("only.svg").exists()
    code, out, _ = usp("backtest", "two.csv", "--no-plot")
    assert code == 0
    assert "random_walk-000" in out
    assert "picture" not in out


def test_a_picture_that_cannot_be_written_is_told(usp):
    Path("t.csv").write_text("date,value\n1990-01-01,1\n1990-01-02,2\n")
    code, _, err = usp("backtest", "t.csv", "--plot", "no/such/folder/p.png")
    assert code == 2
    assert "no/such/folder/p.png" in one_line(err)


def test_the_broker_prints_its_address_and_ends_on_sigterm():
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "broker", "--port", "0", "--topic", "t:2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("127.0.0.1:")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "demos and tests" in err


def test_a_taken_port_is_exit_code_4(usp, broker):
    code, _, err = usp("broker", "--port", broker.rpartition(":")[2])
    assert code == 4
    assert "--port" in err
    assert "Traceback" not in err
