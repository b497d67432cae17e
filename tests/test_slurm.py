"""The sweep as an array of a real Slurm of two nodes, one of which is killed in the middle.

Needs root and Debian's slurm-wlm and munge: `apt-get install -y slurm-wlm munge`. Everything it starts has its own
folder and ports, and is killed at the end.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_sweep import TINY, assert_same, command, processes, succeed, wait_until

JOB = ROOT / "example_code" / "experiments" / "delay_sweep.sbatch"
ARRAY = [*TINY, "--epochs", "10000"]  # four runs, one for each task of the array
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerParameters=sched_interval=2,bf_interval=2
JobRequeue=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(monkeypatch):
    """Starts controller and nodes; dict of their processes by name."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs a Slurm to start as root: missing {' '.join(missing) or 'root'}")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: sockets have paths of 108 characters at most
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(folder=folder, host=socket.gethostname(), ports=free_ports(3)))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
    commands = {
        "munged": ["munged", "--foreground", "--force", *munge],
        "slurmctld": ["slurmctld", "-D"],
        "n1": ["slurmd", "-D", "-N", "n1"],
        "n2": ["slurmd", "-D", "-N", "n2"],
    }
    started = {}
    try:
        for name, argv in commands.items():
            started[name] = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if name == "munged":
                wait_until(lambda: (folder / "munge.socket").exists())
        try:
            wait_until(lambda: ask("sinfo", "-h", "-o", "%T %D") == "idle 2", seconds=120)
        except AssertionError:
            pytest.skip(f"no Slurm could be started here: {ask('sinfo')}")
        yield started
    finally:
        ask("scancel", "-u", "root")
        for process in reversed(started.values()):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def ask(*argv):
    return subprocess.run(argv, capture_output=True, text=True).stdout.strip()


def running_on_n2():
    """(job, its step's process, the sweep's process) on the node n2, or None."""
    job = ask("squeue", "-h", "-w", "n2", "-o", "%A")
    for step in processes(rf"slurmstepd: \[{job}\.batch\]") if job.isdigit() else []:
        for parent in processes("delay_sweep.py", ppid=step):
            return job, step, parent


@pytest.mark.long
def test_an_array_survives_the_loss_of_a_node(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    plain, array = tmp_path / "plain", tmp_path / "array"
    array.mkdir()
    submit = ["sbatch", "--parsable", "-o", f"{tmp_path}/log.%a", str(JOB), *ARRAY, "--out", str(array)]
    job = subprocess.run(submit, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    wait_until(lambda: len(list(array.glob("*/checkpoint"))) == 2)  # both nodes train
    found = []  # nothing between two tasks of the array, or before the shell has become Python
    wait_until(lambda: found.append(running_on_n2()) or found[-1])
    on_n2, step, parent = found[-1]
    for pid in (slurm["n2"].pid, step, parent):
        os.kill(pid, signal.SIGKILL)
    assert not list(array.glob("*.csv"))
    ask("scontrol", "update", "nodename=n2", "state=down", "reason=killed")  # else noticed after SlurmdTimeout, 300 s
    assert "Restarts=1" in ask("scontrol", "show", "job", on_n2)
    wait_until(lambda: not ask("squeue", "-h", "-j", job))
    logs = "".join(path.read_text() for path in tmp_path.glob("log.*"))
    succeed(command(plain, *ARRAY))
    assert_same(ARRAY, array, plain), logs
