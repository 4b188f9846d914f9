"""Celery's settings, shared by the API (which only sends) and the workers.

A message carries an id and nothing else; whether there is work to do, a conditional UPDATE in SQL decides.
So a message is acknowledged when it is taken (nothing is redelivered to a worker that is merely slow), and
one that is lost is sent again by the sweep.
"""

from __future__ import annotations

from jobs.queues import CPU, DELIVER, MODEL, PARSE, QUICK, READ, SWEEP, TIDY
from settings import Settings

_settings = Settings()

broker_url = _settings.redis_url or "redis://127.0.0.1:1/0"
task_ignore_result = True

task_routes = {
    PARSE: {"queue": CPU},
    DELIVER: {"queue": QUICK},
    SWEEP: {"queue": QUICK},
    TIDY: {"queue": QUICK},
    READ: {"queue": MODEL},
}
task_default_queue = CPU

task_acks_late = False
worker_prefetch_multiplier = 1

# The queue's own names in a Redis that others may use too.
broker_transport_options = {
    "global_keyprefix": "unabridged:",
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "max_retries": 0,  # a ring nobody hears is the sweep's; Celery's own loop brings a worker back
    "priority_steps": [0, 5],  # what beat and the doorbell send; a worker asks for each step of each queue
    "queue_order_strategy": "priority",
}
broker_connection_retry_on_startup = True
broker_connection_max_retries = None

beat_schedule = {
    "sweep": {"task": SWEEP, "schedule": _settings.sweep_s, "options": {"expires": 60}},
    "tidy": {"task": TIDY, "schedule": 3600.0, "options": {"expires": 3600}},
}
