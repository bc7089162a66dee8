"""The Celery app: made when this is imported, configured by `celeryconfig.py`, which is found by path."""

from __future__ import annotations

import os
import runpy
from functools import cached_property
from pathlib import Path
from typing import Any

from celery import Celery

from aggregator.bundled import bundled
from aggregator.errors import ConfigurationError, Fault
from aggregator.tasks.base import PolicyTask
from aggregator.tasks.connection import PatientAMQP

CELERYCONFIG_VARIABLE = "AGGREGATOR_CELERYCONFIG"


def _settings_of(path: Path) -> dict[str, Any]:
    """The Celery settings of a Python file: its public lower-case names."""
    return {name: value for name, value in runpy.run_path(str(path)).items() if name.islower() and name[0] != "_"}


def _configuration() -> dict[str, Any]:
    """Ours, then the file that `AGGREGATOR_CELERYCONFIG` names; never a stranger's `celeryconfig` module."""
    configuration = _settings_of(bundled("celeryconfig.py"))
    if own := os.environ.get(CELERYCONFIG_VARIABLE):
        if not Path(own).is_file():
            raise ConfigurationError(Fault(CELERYCONFIG_VARIABLE, None, "", f"{own} is no file; name a readable one"))
        configuration |= _settings_of(Path(own))
    return configuration


class App(Celery):
    """Celery's app, with our beat."""

    @cached_property
    def Beat(self) -> Any:  # noqa: ANN401, N802 - Celery's own
        """What `celery beat` runs; loaded only there."""
        return self.subclass_with_self("aggregator.tasks.banners:QuietBeat")


def make_app() -> Celery:
    """The app that every process of this installation uses; it becomes the default one of this process."""
    made = App("aggregator", task_cls=PolicyTask, amqp=PatientAMQP, set_as_current=True)
    made.config_from_object(_configuration())
    made.set_default()
    return made


app = make_app()
