"""Faults of our own processes: killed, stopped, paused."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from datetime import timedelta

import psutil

from tests.acceptance.faults.fault import Fault, lasting, patience
from tests.acceptance.faults.scene import Actor, Scene
from tests.acceptance.machines import children, kill

PAUSE = lasting(5, 120)
#: As long as a worker takes at most to end, by its own clock.
_GRACE = timedelta(seconds=20)


def _kill_children(scene: Scene) -> None:
    for worker in scene.workers:
        if worker.running is not None:
            # It may have ended by itself, and wait to be started again.
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in children(worker.running.process):
                    kill(child)


def _kill(actors: list[Actor]) -> None:
    for actor in actors:
        actor.kill()


def _start(actors: list[Actor]) -> None:
    for actor in actors:
        if actor.running is None or actor.running.process.poll() is not None:
            actor.start()


def _signal(actors: list[Actor], number: signal.Signals) -> None:
    for actor in actors:
        with suppress(ProcessLookupError):
            os.kill(actor.process_id, number)


#: Celery writes the stack of every thread.
_TELL = signal.SIGUSR1


def _end(actors: list[Actor], scene: Scene, number: signal.Signals) -> None:
    """Send a signal and wait for the end that it asks for; nobody starts them again meanwhile."""
    for actor in actors:
        actor.is_wanted = False
    _signal(actors, number)

    def has_ended() -> bool:
        return all(actor.running is None or actor.running.process.poll() is not None for actor in actors)

    if not scene.wait(has_ended, patience(_GRACE)):
        _signal([actor for actor in actors if actor.running and actor.running.process.poll() is None], _TELL)
        scene.live(timedelta(seconds=2))
        raise AssertionError(
            f"{number.name}: still there after {patience(_GRACE)}; where each thread is stands in its log"
        )


def _kill_parents(scene: Scene) -> None:
    """SIGKILL to the workers' parents alone, as the kernel does when memory runs out."""
    for worker in scene.workers:
        assert worker.running is not None
        orphans: list[psutil.Process] = []
        worker.is_wanted = False
        # It may have ended by itself, and wait to be started again.
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            orphans = psutil.Process(worker.process_id).children(recursive=True)
            kill(worker.process_id)
        worker.running.process.wait()
        _, left = psutil.wait_procs(orphans, timeout=patience(_GRACE).total_seconds())
        assert not left, f"orphans are still there after {patience(_GRACE)}: {left}"


CHILDREN_KILLED = Fault(
    "kill -9 of all children", "new children; the slots are taken over or missed", _kill_children, lasts=timedelta(0)
)
WORKER_KILLED = Fault(
    "kill -9 of the worker and its children",
    "its slots are taken over or missed",
    lambda scene: _kill(scene.workers),
    lambda scene: _start(scene.workers),
)
PARENT_KILLED = Fault(
    "kill -9 of the worker's parent alone",
    "orphans end by themselves and do nothing twice",
    _kill_parents,
    lambda scene: _start(scene.workers),
    lasts=timedelta(0),
)
BEAT_KILLED = Fault(
    "kill -9 of beat", "no wakes until it is back", lambda scene: _kill(scene.beats), lambda scene: _start(scene.beats)
)
ALL_KILLED = Fault(
    "kill -9 of everything of ours",
    "as if the machine had lost its power",
    lambda scene: _kill(scene.actors),
    lambda scene: _start(scene.actors),
)
WORKER_TERMINATED = Fault(
    "TERM to the worker in mid-task",
    "running tasks are done, then it ends",
    lambda scene: _end(scene.workers, scene, signal.SIGTERM),
    lambda scene: _start(scene.workers),
    lasts=timedelta(0),
)
WORKER_QUIT = Fault(
    "QUIT to the worker in mid-task",
    "it ends within the soft shutdown's time",
    lambda scene: _end(scene.workers, scene, signal.SIGQUIT),
    lambda scene: _start(scene.workers),
    lasts=timedelta(0),
)
BEAT_PAUSED = Fault(
    "SIGSTOP of beat",
    "no burst afterwards; what was not woken is missed",
    lambda scene: _signal(scene.beats, signal.SIGSTOP),
    lambda scene: _signal(scene.beats, signal.SIGCONT),
    lasts=PAUSE,
)
#: One of each kind; `make soak` and the long variant have them all.
QUICK = (CHILDREN_KILLED, PARENT_KILLED, ALL_KILLED, WORKER_TERMINATED, BEAT_PAUSED)
FAULTS = (
    CHILDREN_KILLED,
    WORKER_KILLED,
    PARENT_KILLED,
    BEAT_KILLED,
    ALL_KILLED,
    WORKER_TERMINATED,
    WORKER_QUIT,
    BEAT_PAUSED,
)
