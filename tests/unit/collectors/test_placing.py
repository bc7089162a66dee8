"""Values go to the series that are registered: target labels merged, keep and drop applied, the keys one object."""

from __future__ import annotations

import numpy as np

from aggregator.collectors.outcome import REPORTED
from aggregator.collectors.placing import Placer, Sample, counter, gauge
from aggregator.collectors.protocol import Target
from aggregator.config.source_model import HostSource
from aggregator.exposition.series import Kind, SeriesKey

TARGET = Target(1, "web1", (("job", "host"), ("instance", "web1")))
SAMPLES = (gauge("load", 1, job="mine"), counter("jobs_total", 2), gauge("heat", 3, zone=""))


def exposed(samples: tuple[Sample, ...] = SAMPLES) -> tuple[SeriesKey, ...]:
    return tuple(SeriesKey(*sample.series) for sample in samples)


def test_reported_series_come_first_and_own_labels_give_way_to_the_target() -> None:
    placement = Placer(REPORTED).place(HostSource(name="host"), TARGET, exposed())
    labels = (("instance", "web1"), ("job", "host"))
    assert placement.keys == (
        *(SeriesKey(metric, labels, Kind.GAUGE) for metric in REPORTED),
        SeriesKey("load", (("exported_job", "mine"), *labels), Kind.GAUGE),
        SeriesKey("jobs_total", labels, Kind.COUNTER),
        SeriesKey("heat", labels, Kind.GAUGE),
    )
    values = placement.values((1, 0.5, 3), [sample.value for sample in SAMPLES])
    assert values.dtype == np.float64
    assert values.tolist() == [1, 0.5, 3, 1, 2, 3]


def test_keep_and_drop_choose_series_but_not_the_reported_ones() -> None:
    source = HostSource(name="host", keep=("load|heat",), drop=("heat",))
    placement = Placer(REPORTED).place(source, TARGET, exposed())
    assert [key.metric for key in placement.keys] == [*REPORTED, "load"]
    assert placement.values((1, 0.5, 3), [10, 20, 30]).tolist() == [1, 0.5, 3, 10]


def test_a_source_that_keeps_nothing_still_reports() -> None:
    placement = Placer(REPORTED).place(HostSource(name="host", keep=("none",)), TARGET, exposed())
    assert placement.values((0, 1, 2), [1, 2, 3]).tolist() == [0, 1, 2]


def test_of_two_series_that_become_one_the_first_is_kept() -> None:
    twice = (gauge("heat", 1, zone=""), gauge("heat", 2), gauge("up", 3))
    placement = Placer(REPORTED).place(HostSource(name="host"), TARGET, exposed(twice))
    assert placement.duplicates == 2
    assert placement.values((1, 0, 3), [1, 2, 3]).tolist() == [1, 0, 3, 1]


def test_a_change_of_series_source_or_target_gives_other_keys_and_nothing_else_does() -> None:
    placer, source = Placer(REPORTED), HostSource(name="host")
    keys = placer.place(source, TARGET, exposed()).keys
    assert placer.place(HostSource(name="host"), Target(1, "web1", TARGET.labels), exposed()).keys is keys
    assert placer.place(source, Target(2, "web2", TARGET.labels), exposed()).keys is not keys
    assert placer.place(source, TARGET, exposed()).keys is keys
    assert len(placer.place(source, TARGET, exposed()[:2]).keys) == len(keys) - 1
    assert len(placer.place(HostSource(name="host", drop=("load",)), TARGET, exposed()).keys) == len(keys) - 1
