"""Many workers on one store: the same manifests whoever made the parts, however many were killed, and whatever engine started them.

    python tests/peers/scale.py --venvs /tmp/venvs [--binary target/release/mindgap] [--kills 20] [--only local s3 kills ray slurm]

Makes the virtual environments below `--venvs` unless they are there: moto, a server that speaks S3, and Ray. Slurm is a cluster of
one node started here, of the programs that `apt install slurm-wlm munge` brings. What is not there is skipped, and said so.
`--s3 s3://bucket/prefix` takes a bucket in place of moto, with the environment's credentials.
Ends with an assertion error where something is not as docs/scale.md promises, else with a table of what was seen.
"""

import argparse
import collections
import getpass
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from engines import ROOT, venv

MOTO, RAY = "moto[server]==5.2.*", "ray[default]==2.60.*"
PIPELINE = ROOT / "pipelines/smoke.toml"
LEASE_SECONDS = 5
RECORD = re.compile(r"/memo/\w{64}/(\w{64})\.json$")

# moto closes an object's buffer under its readers when it is overwritten, and answers them 500.
SERVE = """
from moto.s3.models import FakeKey
from moto.server import main
FakeKey.dispose = lambda key, garbage=False: None
main()
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, seconds=60):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, f"waited {seconds} s for {what.__name__}"
        time.sleep(0.1)


def installer(name):
    return lambda pip, _: subprocess.run([*pip, name], check=True)


class Peers:
    def __init__(self, args, scratch):
        self.args, self.scratch, self.seen, self.s3 = args, scratch, [], args.s3
        venvs = pathlib.Path(args.venvs)
        self.moto = None if args.s3 else venv(venvs / "moto", "python3.11", installer(MOTO))
        self.ray = venv(venvs / "ray", args.python_ray, installer(RAY))
        self.environment = os.environ | {"MINDGAP_LEASE_SECONDS": str(LEASE_SECONDS), "RAY_USAGE_STATS_ENABLED": "0"}
        self.programs, self.log = [], scratch / "moto.log"
        if self.moto:
            self.serve()

    def serve(self):
        endpoint = f"http://127.0.0.1:{free_port()}"
        self.start([self.moto, "-c", SERVE, "-H", "127.0.0.1", "-p", endpoint.rsplit(":", 1)[1]], self.log)

        def the_bucket():
            try:
                return urllib.request.urlopen(urllib.request.Request(f"{endpoint}/mindgap", method="PUT"))
            except OSError:
                return False

        wait_for(the_bucket)
        self.s3 = "s3://mindgap"
        self.environment |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def start(self, command, log, **more):
        """A program that leads a group of its own, which ends with this script."""
        self.programs.append(subprocess.Popen(command, stdout=log.open("a"), stderr=subprocess.STDOUT, start_new_session=True, **more))
        return self.programs[-1]

    def close(self):
        for program in self.programs:
            try:
                os.killpg(program.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            program.wait()

    def answered(self, prefix):
        """What moto has answered about a prefix: method, path and status of every request."""
        said = re.findall(r'"(?:\x1b\[[\d;]*m)*([A-Z]+) (\S+) HTTP/1.1(?:\x1b\[0m)?" (\d+)', self.log.read_text()) if self.moto else []
        return [(method, path, int(status)) for method, path, status in said if prefix in path]


class Stage:
    """A store of its own, the workers on it, and what is to hold in the end."""

    def __init__(self, peers, name, remote):
        self.peers, self.name, self.folder = peers, name, peers.scratch / name
        self.folder.mkdir()
        self.store = f"{peers.s3}/{peers.scratch.name}/{name}" if remote else str(self.folder / "store")
        self.began = time.time()

    def environment(self, cache):
        return self.peers.environment | {"MINDGAP_CACHE": str(self.folder / cache), "MINDGAP_STORE": self.store}

    def worker(self, cache):
        command = [self.peers.args.binary, "work", PIPELINE, "--threads", "1"]
        return self.peers.start(command, self.folder / f"{cache}.log", env=self.environment(cache), cwd=ROOT)

    def events(self, event, cache="."):
        found = []
        for path in (self.folder / cache).rglob("runs/*.jsonl"):
            for line in path.read_text().splitlines():
                try:
                    found.append(json.loads(line))
                except ValueError:
                    pass  # a killed worker's last line
        return [each for each in found if each["event"] == event]

    def at_work(self, cache="."):
        """Waits until the first part is there, and then a little."""

        def a_part():
            return self.events("part", cache)

        wait_for(a_part, 300)
        time.sleep(self.peers.args.dice.uniform(0.0, 3.0))

    def said(self):
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))

    def ends(self, workers, seconds=900):
        for worker in workers:
            assert worker.wait(seconds) == 0, f"a worker ended with {worker.returncode}\n{self.said()}"

    def check(self, what):
        """The manifests of all stages, read on a machine that has seen nothing; no part was computed after it was there."""
        seconds = time.time() - self.began
        answered = self.peers.answered(f"{self.peers.scratch.name}/{self.name}/")
        parts = collections.Counter(event["fingerprint"] for event in self.events("part"))
        again = {part: times for part, times in parts.items() if times > 1}
        assert not again, f"{self.name}: computed again after they were committed: {again}"
        puts = [RECORD.search(path) for method, path, status in answered if method == "PUT" and status == 200]
        records = collections.Counter(found[1] for found in puts if found)
        assert max(records.values(), default=1) == 1, f"{self.name}: committed twice: {records.most_common(3)}"
        assert not answered or parts.keys() <= records.keys(), f"{self.name}: a part in a log that was not committed"
        command = [self.peers.args.binary, "run", PIPELINE, "--json"]
        done = subprocess.run(command, env=self.environment("reader"), capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
        stages = json.loads(done.stdout)["stages"]
        missing = [stage["name"] for stage in stages if stage["computed_parts"]]
        assert not missing, f"{self.name}: was not done: {missing}"
        addresses = {stage["name"]: stage["address"] for stage in stages}
        expected = self.peers.__dict__.setdefault("expected", addresses)
        differ = [name for name in expected if addresses.get(name) != expected[name]]
        assert not differ and len(addresses) == len(expected), f"{self.name}: other manifests of {differ}"
        asked = " ".join(f"{method} {count}" for method, count in sorted(collections.Counter(method for method, _, _ in answered).items()))
        committed = len(records) or len(parts)
        self.peers.seen.append((self.name, what, len(addresses), committed, f"{seconds:.0f} s", asked))
        print(f"  {self.name}: {what}; {len(addresses)} manifests equal, {committed} parts, none again, {seconds:.0f} s {asked}", flush=True)


def counts(peers, remote):
    """1, 2 and 4 workers."""
    for workers in (1, 2, 4):
        stage = Stage(peers, f"{'s3' if remote else 'local'}-{workers}", remote)
        stage.ends([stage.worker(f"cache-{index}") for index in range(workers)])
        stage.check(f"{workers} workers")


def kills(peers, remote, count, workers=3):
    """SIGKILLs of any worker at any time; one in its place begins on the same machine or on a new one."""
    dice, hits, rounds = peers.args.dice, 0, 0
    while hits < count:
        rounds, before = rounds + 1, hits
        stage = Stage(peers, f"{'s3' if remote else 'local'}-kills-{rounds}", remote)
        caches = [f"cache-{index}" for index in range(workers)]
        running = [stage.worker(cache) for cache in caches]
        while hits < count:
            time.sleep(dice.uniform(0.0, 1.0))
            if any(worker.poll() == 0 for worker in running):
                break
            which = dice.randrange(workers)
            assert running[which].poll() is None, f"a worker ended with {running[which].returncode}\n{stage.said()}"
            running[which].kill()
            running[which].wait()
            hits += 1
            if dice.random() < 0.5:
                caches[which] = f"cache-new-{hits}"
            running[which] = stage.worker(caches[which])
        stage.ends(running)
        stage.check(f"{workers} workers, {hits - before} killed")


def on_ray(peers):
    """The launcher on two nodes, one of which is lost in mid-run; then a pipeline that is not there."""
    stage = Stage(peers, "ray", True)
    port, programs = free_port(), peers.ray.parent
    head = ["--head", "--port", str(port), "--include-dashboard=false", "--temp-dir", str(peers.scratch / "r")]

    def node(name, where):
        command = [programs / "ray", "start", "--block", "--num-cpus", "2", *where]
        return peers.start(command, stage.folder / f"{name}.log", env=stage.environment(f"cache-{name}"))

    node("head", head)
    other = None

    def launch(pipeline, log):
        # Every node has a cache of its own.
        environment = {name: value for name, value in stage.environment("").items() if name != "MINDGAP_CACHE"}
        command = [programs / "python", ROOT / "launch/ray/mindgap_ray.py", "--workers", "4", "--mindgap", peers.args.binary, "--", pipeline]
        return peers.start(command, stage.folder / log, env=environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"})

    def the_nodes():
        command = [programs / "python", "-c", "import ray; ray.init(log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"]
        done = subprocess.run(command, env=peers.environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, capture_output=True, text=True)
        return done.stdout.strip() == str(1 + (other is not None))

    wait_for(the_nodes, 120)
    other = node("other", ["--address", f"127.0.0.1:{port}"])
    wait_for(the_nodes, 120)
    stage.began = time.time()
    job = launch(PIPELINE, "job.log")
    stage.at_work("cache-other")
    assert job.poll() is None, "it was through before a node was lost"
    os.killpg(other.pid, signal.SIGKILL)
    assert job.wait(900) == 0, stage.said()
    again = (stage.folder / "job.log").read_text().count("the task will be retried")
    stage.check(f"4 tasks on 2 nodes of Ray, one lost, {again} tasks started again")
    code = launch(peers.scratch / "none.toml", "refused.log").wait(120)
    alone = subprocess.run([peers.args.binary, "work", peers.scratch / "none.toml"], env=stage.environment("reader"), capture_output=True)
    assert code == alone.returncode and code in (2, 3), (code, alone.returncode)
    print(f"  ray: a pipeline that is not there ends the job with {code}")


SLURM = """
ClusterName=here
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
JobRequeue=1
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A cluster of this machine alone."""

    def __init__(self, peers, folder):
        host = socket.gethostname().split(".")[0]
        text = SLURM.format(host=host, user=getpass.getuser(), ports=[free_port(), free_port()], folder=folder, cpus=os.cpu_count())
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        self.environment = peers.environment | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]
        for name, command in {"munged": ["--foreground", "--force", *munge], "slurmctld": ["-D", "-c"], "slurmd": ["-D"]}.items():
            program = shutil.which(name, path=self.environment["PATH"])
            peers.start([program, *command], folder / f"{name}.log", env=self.environment)
            time.sleep(1)

        def an_idle_node():
            return "idle" in self.ask("sinfo", "-h")

        wait_for(an_idle_node)

    def ask(self, *command, **environment):
        done = subprocess.run(list(map(str, command)), env=self.environment | environment, capture_output=True, text=True, cwd=environment.get("PWD"))
        return done.stdout.strip()

    def tasks(self, states="PD,R,CG"):
        return self.ask("squeue", "-h", "-r", "-o", "%i", "-t", states).split()

    def nothing_queued(self):
        return not self.tasks()


def on_slurm(peers, requeues=4):
    """The array job, whose running tasks are requeued at random times; then a pipeline that is not there."""
    stage = Stage(peers, "slurm", True)
    slurm = Slurm(peers, peers.scratch / "cluster")

    def submit(pipeline):
        more = stage.environment("cache") | {"MINDGAP": peers.args.binary, "PWD": str(stage.folder)}
        script = ROOT / "launch/slurm/mindgap.sbatch"
        return slurm.ask("sbatch", "--parsable", "--array=0-2", "--cpus-per-task=1", script, pipeline, **more)

    stage.began, job = time.time(), submit(PIPELINE)
    stage.at_work()
    while requeues:
        if running := slurm.tasks("R"):
            slurm.ask("scontrol", "requeue", peers.args.dice.choice(running))
            requeues -= 1
        assert slurm.tasks(), f"it was through before its tasks were requeued\n{stage.said()}"
        time.sleep(peers.args.dice.uniform(0.0, 3.0))
    wait_for(slurm.nothing_queued, 900)
    again = sum(int(times) for times in re.findall(r"Restarts=(\d+)", slurm.ask("scontrol", "show", "job", job)))
    codes = re.findall(r"ExitCode=(\S+)", slurm.ask("scontrol", "show", "job", job))
    assert set(codes) == {"0:0"} and again, (codes, again, stage.said())
    stage.check(f"array of 3 tasks in Slurm, {again} requeued")
    job = submit(peers.scratch / "none.toml")
    wait_for(slurm.nothing_queued, 60)
    said = slurm.ask("scontrol", "show", "job", job)
    assert "CANCELLED" in said and not re.search(r"Restarts=[1-9]", said), said
    print("  slurm: a pipeline that is not there cancels the array")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", default=str(ROOT / "target/release/mindgap"))
    parser.add_argument("--venvs", required=True)
    parser.add_argument("--python-ray", default="python3.12")
    parser.add_argument("--s3", help="a bucket and prefix in place of moto's")
    parser.add_argument("--kills", type=int, default=20)
    everything = ["local", "s3", "kills-local", "kills-s3", "ray", "slurm"]
    parser.add_argument("--only", nargs="*", default=everything, choices=everything)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.dice = random.Random(args.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    with tempfile.TemporaryDirectory(prefix="mg") as scratch:
        peers = Peers(args, pathlib.Path(scratch))
        try:
            reference = Stage(peers, "run", False)
            subprocess.run([args.binary, "run", PIPELINE], env=reference.environment("cache"), check=True, capture_output=True, cwd=ROOT)
            reference.check("`mindgap run`")
            if "local" in args.only:
                counts(peers, False)
            if "kills-local" in args.only:
                kills(peers, False, args.kills)
            if not peers.s3:
                sys.exit("SKIPPED: all that needs S3")
            if "s3" in args.only:
                counts(peers, True)
            if "kills-s3" in args.only:
                kills(peers, True, args.kills)
            if "ray" in args.only and peers.ray:
                on_ray(peers)
            if "slurm" in args.only and shutil.which("sbatch"):
                on_slurm(peers)
            elif "slurm" in args.only:
                print("SKIPPED: no sbatch")
        finally:
            peers.close()
    print("\n| store | what | manifests | parts | time | requests |\n|---|---|--:|--:|--:|---|")
    for row in peers.seen:
        print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
