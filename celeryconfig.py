"""Celery's settings: broker, queues, limits; every one with its reason.

Loaded by path and never by name (docs/pitfalls.md#celeryconfig). A file named by AGGREGATOR_CELERYCONFIG is applied
after this one.
"""

from kombu.entity import Exchange, Queue

from aggregator.config.broker_tls import amqp_tls, checked
from aggregator.config.load import load_settings
from aggregator.config.memory import memory_share as _memory_share
from aggregator.config.servers import with_running_servers
from aggregator.tasks.schedule import beat_schedule as _beat_schedule

_settings = with_running_servers(load_settings())
_namespace = _settings.namespace

# --- Broker and results -----------------------------------------------------------------------------------------------
# A process that only imports a task may have no broker configured; sending then says so at once.
broker_url = checked(_settings.broker_url.get_secret_value()) if _settings.broker_url else "memory://"
# By default certificates are not verified, or not their names (docs/pitfalls.md#broker-tls).
broker_url, broker_use_ssl = amqp_tls(broker_url)
result_backend = checked(_settings.result_backend.get_secret_value()) if _settings.result_backend else None
_is_redis = broker_url.startswith(("redis", "unix", "sentinel"))

broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # months unattended: a broker that is away for an hour comes back
broker_connection_timeout = 5
broker_pool_limit = 2  # a worker and its timer; more connections only cost memory
broker_pool_acquire_timeout = 10  # the default waits for ever (docs/pitfalls.md#half-open)
broker_heartbeat = 30

# A peer that vanished without a word is noticed in seconds and not never (docs/pitfalls.md#half-open).
_redis_options = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 5,
    "retry_on_timeout": True,
}
# At least twice the hard limit, or a long task runs twice (docs/pitfalls.md#visibility-timeout).
broker_transport_options = (
    {
        **_redis_options,
        "visibility_timeout": 1_800,
        # What a lost worker had is sent again within these seconds after that timeout, and not only at each tenth look.
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "global_keyprefix": f"{_namespace}:",
    }
    if _is_redis
    else {"confirm_publish": True}
)
if broker_url.startswith("redis+socket"):
    # A unix socket has no TCP keepalive to set.
    broker_transport_options.pop("socket_keepalive")

redis_socket_timeout = 10
redis_socket_connect_timeout = 5
redis_socket_keepalive = not (result_backend or "").startswith("redis+socket")
redis_backend_health_check_interval = 10
redis_retry_on_timeout = True
result_backend_transport_options = {"global_keyprefix": f"{_namespace}:"}  # several installations share a Redis
result_expires = 3_600  # results are for whoever waits right now
result_persistent = False

# --- Messages ---------------------------------------------------------------------------------------------------------
# JSON only: whoever can write to the broker must not be able to run code by unpickling.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
enable_utc = True
timezone = "UTC"  # other zones skip an hour of crontabs in autumn (docs/pitfalls.md#utc)
task_send_sent_event = False
worker_send_task_events = False

# --- Queues -----------------------------------------------------------------------------------------------------------
# A queue per stage, so that a stuck collector holds up no rollup; one per node, so that no slot lands elsewhere.
# Quorum queues on RabbitMQ: classic mirrored ones are gone, transient ones are refused from 4.3 on.
_arguments = None if _is_redis or broker_url.startswith("memory") else {"x-queue-type": "quorum"}
_exchange = Exchange(_namespace, type="direct")  # type: ignore[no-untyped-call] # kombu's


def _queue(name: str) -> Queue:
    full = f"{_namespace}.{name}"
    return Queue(full, _exchange, routing_key=full, durable=True, queue_arguments=_arguments)  # type: ignore[no-untyped-call] # kombu's


task_queues = [_queue(name) for name in ("collect", "rollup", "summarize", "maintain", f"node.{_settings.node}")]
task_default_queue = f"{_namespace}.collect"
task_default_exchange = _namespace
task_default_exchange_type = "direct"
task_default_routing_key = task_default_queue
task_create_missing_queues = True
task_create_missing_queue_type = "classic" if _is_redis else "quorum"
task_routes = {
    "aggregator.rollup": {"queue": f"{_namespace}.rollup"},
    "aggregator.summarize": {"queue": f"{_namespace}.summarize"},
    "aggregator.maintain": {"queue": f"{_namespace}.maintain"},
    "aggregator.verify": {"queue": f"{_namespace}.maintain"},
    "aggregator.announce": {"queue": f"{_namespace}.node.{_settings.node}"},
    "aggregator.report_lost": {"queue": f"{_namespace}.node.{_settings.node}"},
}

# --- Limits: statement timeout (60 s) < soft limit < hard limit < half the visibility timeout -------------------------
task_soft_time_limit = 240
task_time_limit = 300
task_acks_late = True
task_acks_on_failure = True
task_acks_on_timeout = True  # a poison task must not come back for ever (docs/pitfalls.md#worker-lost)
task_retry_on_worker_lost = True
worker_lost_wait = 3.0  # a killed child's message is sent again after so long; what it had answered has come by then
task_publish_retry_policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1}
task_track_started = False

# --- Worker -----------------------------------------------------------------------------------------------------------
worker_pool = "prefork"
worker_consumer = "aggregator.tasks.consumer:Consumer"  # no queues for delayed messages outside of our namespace
worker_concurrency = _settings.worker_concurrency
worker_prefetch_multiplier = 1  # a message that waits behind a long task would expire
worker_proc_alive_timeout = 60  # the default of 4 s kills children on a busy machine
worker_max_tasks_per_child = 20_000
# kB. No leak may grow for months, and a million series may be known; in a container all children share its limit.
worker_max_memory_per_child = _memory_share(_settings.worker_concurrency, most=2_000_000)
worker_cancel_long_running_tasks_on_connection_loss = True  # their message comes back: do not run them twice
worker_soft_shutdown_timeout = 10.0  # a stop is bounded: what is cut short is claimed again
worker_enable_remote_control = _settings.remote_control == "on"  # docs/security.md#the-broker
control_exchange = _namespace  # by default all Celery applications of a broker share one: `control shutdown` hits all
worker_hijack_root_logger = False  # the logs are ours, with fields
worker_redirect_stdouts = False

# --- Beat: it only wakes ----------------------------------------------------------------------------------------------
# In memory: a schedule file is a pickle, and garbage in it is a crash loop (docs/pitfalls.md#beat-schedule-file).
beat_scheduler = "aggregator.tasks.scheduler:ClockScheduler"
beat_max_loop_interval = 60
beat_schedule = _beat_schedule(_settings)

imports = ("aggregator.tasks",)
