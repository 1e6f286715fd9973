"""A real Slurm on this machine: one controller, two nodes, two partitions of which one preempts the other."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
MaxArraySize=5
MinJobAge=10
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=1 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=1 RealMemory=1000
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


class SlurmCluster:
    """Daemons of their own, all files in ``folder``; ``environment`` points the commands at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = [_free_port() for _ in range(3)]
        text = _CONFIG.format(host=socket.gethostname(), folder=folder, port=ports[0], port1=ports[1], port2=ports[2])
        (folder / "slurm.conf").write_text(text)
        (folder / "state").mkdir()
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        socket_path = self.folder / "munge.socket"
        self._run(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={socket_path}",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )
        _until(socket_path.exists, "munged makes its socket")
        self._run("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            (self.folder / node).mkdir()
            self._run("slurmd", "-D", "-N", node)
        _until(lambda: self.call("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 4, "both nodes are idle")

    def call(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | self.environment)
        return done.stdout

    def stop(self) -> None:
        self.call("scancel", "--user=root")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _run(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as log:
            environment = os.environ | self.environment
            self._daemons.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))


def skip_without_slurm() -> None:
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("Slurm's daemons start jobs of users, so they run as root")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until(met: object, what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not met():  # type: ignore[operator]
        assert time.monotonic() < end, f"within {seconds:.0f} s: {what}"
        time.sleep(0.2)
