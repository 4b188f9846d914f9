"""Names of the queues and of the tasks on them: the words API and workers exchange through the broker."""

#: Parsing, which may take minutes a file.
CPU = "cpu"
#: The sweep and webhooks, which wait for no file.
QUICK = "quick"
MODEL = "model"

PARSE = "unabridged.parse"
READ = "unabridged.read"
DELIVER = "unabridged.deliver"
SWEEP = "unabridged.sweep"
TIDY = "unabridged.tidy"


def own_queue(worker_id: str) -> str:
    """Where a model worker finds the jobs that are meant for it."""
    return f"{MODEL}.{worker_id}"
