"""Start long-running commands as background jobs that any process can see, wait for and stop.

    import jobsup

    job = jobsup.start(["python", "train.py"], name="train", timeout=3600)
    job.status().state, job.tail(20)
    job.cancel()
    print(job.wait().outcome)

The functions here act on the default store; `JobStore` is for another one.
"""

from jobsup._job import Job
from jobsup._jobs import JobStore, default_store
from jobsup._model import JobRecord, JobState, Outcome, StopCause
from jobsup._spec import JobSpec
from jobsup._stopplan import ProcessIdentity, StopPlan, StopStep
from jobsup.errors import (
    JobEndedError,
    JobExistsError,
    JobNotFoundError,
    JobsupError,
    RecordError,
    SpawnError,
    WaitTimeoutError,
)

start = default_store.start
get = default_store.get
list = default_store.list
wait = default_store.wait
wait_async = default_store.wait_async
prune = default_store.prune
events = default_store.events

__version__ = "0.1.0"

__all__ = [
    "Job",
    "JobEndedError",
    "JobExistsError",
    "JobNotFoundError",
    "JobRecord",
    "JobSpec",
    "JobState",
    "JobStore",
    "JobsupError",
    "Outcome",
    "ProcessIdentity",
    "RecordError",
    "SpawnError",
    "StopCause",
    "StopPlan",
    "StopStep",
    "WaitTimeoutError",
    "events",
    "get",
    "list",
    "prune",
    "start",
    "wait",
    "wait_async",
]
