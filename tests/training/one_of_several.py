"""A process that has joined others, of which there are none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ONE_OF_SEVERAL = """
import sys
from pathlib import Path
from tdbench.cli import main
from tdbench.training import parallel

parallel.are_several = lambda: True  # one process is alone otherwise
distribute = parallel._Joined.distribute

def noted(*arguments):
    network = distribute(*arguments)
    Path("network").write_text(type(network).__name__ + " by " + parallel._Joined.here._dist.get_backend_config())
    return network

parallel._Joined.distribute = noted
sys.exit(main(sys.argv[1:]))
"""


def learn_as_one_of_several(device):
    """Train alone, and in a process that has joined others of which there are none; return both test errors."""
    Path("joined.py").write_text(ONE_OF_SEVERAL)
    knobs = ["train", "--device", device, "--deterministic", "--train-fraction", "0.1", "--max-steps", "12", "--quiet"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    errors = []
    for program, out, variables in ((["-m", "tdbench"], "plain", {}), (["joined.py"], "joined", place)):
        command = [sys.executable, *program, *knobs, "--out", out]
        subprocess.run(command, check=True, env={**os.environ, **variables}, timeout=300)
        errors.append(json.loads(Path(out, "result.json").read_text())["test_error_pct"])
    return errors
