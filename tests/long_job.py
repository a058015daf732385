"""A worker that knows one more kind of run: `python -m tests.long_job`.

The job writes the numbers from 0 to TOTAL - 1 as rows, a batch at a time, and takes some seconds.
Asked to by the run's source, it fails with a secret in its hands.
"""

import sys
import time

from webapp.db import transaction
from webapp.jobs.context import carry_out
from webapp.models import LoginAttempt
from webapp.services import runs

KIND = "long_job"
TOTAL = 240
BATCH = 10
PAUSE_SECONDS = 0.05
FAIL = "fail"
SECRET = "sk-a-secret-that-a-traceback-could-show"

runs.KINDS[KIND] = runs.Kind("tests.long_job.run", "legacy.check_requested", "long job")


def run(run_id: int) -> None:
    carry_out(_count, run_id)


def _count(run_id: int) -> None:
    with runs.working(runs.take(run_id)) as lease:
        if lease.source == FAIL:
            raise ValueError(SECRET)
        for first in range(lease.cursor, TOTAL, BATCH):
            with transaction() as session:
                session.add_all(_row(number) for number in range(first, first + BATCH))
                session.flush()
                time.sleep(PAUSE_SECONDS)  # a kill can meet the batch
                lease.checkpoint(session, cursor=first + BATCH, total=TOTAL)
            time.sleep(PAUSE_SECONDS)  # or the time between two
            lease.renew()
        runs.finish(lease)


def _row(number: int) -> LoginAttempt:
    return LoginAttempt(kind="number", subject=number.to_bytes(32, "big"))


if __name__ == "__main__":
    import worker

    sys.exit(worker.main())
