"""A training in a process whose memory a cgroup limits: `limited.py CGROUP STORE FOLDER STEPS` prints what it held."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    cgroup, path, folder, steps = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))  # before anything is loaded, so that all of it counts
    sys.path.insert(0, str(Path(__file__).parents[2]))

    import store
    from stages.train import train
    from tests.train import small

    opened = store.open(path)
    opened.check()
    done = train(small.config(batch_rows=16, steps=steps, d_sae=64), opened, max(opened.layers), folder)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {name: int(status[name].split()[0]) for name in ("VmSize", "VmHWM", "RssAnon")}
    print(json.dumps({"steps": done.training["steps_done"], **{name: size * 1024 for name, size in kilobytes.items()}}))
