"""What a process that is refused or killed leaves in a folder of snapshots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from extents import IDENTITY, document, load, payload, stored

from worker.engine.snapshots import SnapshotStore, chain

FULL_DISK = """
import resource, sys
from pathlib import Path
from extents import IDENTITY, document, payload, save
from worker.engine.snapshots import SnapshotStore, chain
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = SnapshotStore(Path(sys.argv[1]), identity=IDENTITY, capacity_bytes=1 << 40)
keys = chain(document(1, 2))
print(save(store, keys, 0, 1, payload(0, 300_000)), save(store, keys, 0, 1, payload(0)))
"""


def child(source: str, folder: Path) -> subprocess.Popen[str]:
    paths = (str(Path(__file__).parents[depth]) for depth in (1, 2))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-c", source, str(folder)], stdout=subprocess.PIPE, env=environment, text=True
    )


def test_a_disk_that_refuses_leaves_no_part_of_a_file_behind(tmp_path: Path) -> None:
    output, _ = child(FULL_DISK, tmp_path).communicate(timeout=60)
    assert output.split() == ["False", "True"]
    assert [path.suffix for path in (tmp_path / IDENTITY.fingerprint.hex()).iterdir()].count(".kv") == 1
    assert not list(tmp_path.rglob("*.tmp"))


KILLED = """
import sys, time
from itertools import count
from pathlib import Path
from extents import IDENTITY, document, payload
from worker.engine.snapshots import SnapshotStore, chain
uses = count(1)

def clock():
    if (use := next(uses)) == 3:
        print("all but the name of the third extent is written", flush=True)
        time.sleep(600)
    return use

store = SnapshotStore(Path(sys.argv[1]), identity=IDENTITY, capacity_bytes=1 << 40, writers=1, clock_ns=clock)
keys = chain(document(1, 8))
for start in range(0, 8, 2):
    store.save(keys, start, start + 2, payload(start))
time.sleep(600)
"""


def test_a_killed_writer_leaves_whole_extents_only(tmp_path: Path) -> None:
    def opened() -> SnapshotStore:
        return SnapshotStore(tmp_path / "kv", identity=IDENTITY, capacity_bytes=1 << 40)

    writer = child(KILLED, tmp_path / "kv")
    assert writer.stdout is not None
    assert writer.stdout.readline()
    assert len(list(tmp_path.rglob("*.tmp"))) == 1
    opened().close()
    assert len(list(tmp_path.rglob("*.tmp"))) == 1  # its writer lives
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=60)
    store = opened()
    keys = chain(document(1, 8))
    assert not list(tmp_path.rglob("*.tmp"))
    assert stored(store, keys) == 4
    assert [load(store, keys, i) for i in range(2)] == [bytes(payload(start)) for start in (0, 2)]
    store.close()
