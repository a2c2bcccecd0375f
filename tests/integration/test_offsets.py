"""The asker about offsets: where its clients end."""

from __future__ import annotations

import subprocess
import sys

from live_services import CHECKOUT

# librdkafka ends the process where an admin client is destroyed in the thread that brings it an
# answer: the garbage is collected there, with all that nobody but the asker may know of any more.
SCRIPT = """
import gc
import threading

from consumers import offsets
from consumers.settings import common


def ended(client):
    try:
        return client.poll(0) and False
    except RuntimeError as error:
        return "closed" in str(error)

gc.disable()
asker = offsets.Offsets(common("127.0.0.1:1", "asker", {"log_level": "0"}), "group", 2)
offsets.REQUEST_SECONDS = 0.2
early = asker.ask_log_starts("log", [0])
offsets.REQUEST_SECONDS = 0.6
late = asker.ask_log_starts("log", [1])
collected = threading.Event()
answer = late._asked[1]
answer.add_done_callback(lambda _: (gc.collect(), collected.set()))
while early.pending:
    early.arrived()
print("refused:", list(early.refusals))
for question in (early, late):
    question.itself = question
del early, late, question
print("collected:", collected.wait(10.0), answer.done())
clients = [each for each in gc.get_objects() if type(each).__name__ == "AdminClient"]
print("ended:", [ended(each) for each in clients])
asker.close()
print("ended:", [ended(each) for each in clients])
"""


def test_a_client_with_answers_to_come_outlives_its_replacement_and_every_question():
    asked = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=CHECKOUT, capture_output=True, text=True, timeout=60
    )

    assert asked.stderr == ""
    assert asked.returncode == 0
    assert asked.stdout.splitlines() == [
        "refused: [0]",
        "collected: True True",
        "ended: [False]",
        "ended: [True]",
    ]
