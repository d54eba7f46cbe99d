"""One Ray job that runs `mindgap work` on every worker it is given.

    python mindgap_ray.py --workers 8 --cpus-per-worker 4 -- PIPELINE [STAGE..] --store s3://bucket/prefix

What stands behind `--` is what `mindgap work` takes. A worker that is lost, with its node or alone, is started again; the job
is done as soon as one worker finds the pipeline done, and fails with the exit code of one that finds an error of the user's.
"""

import argparse
import os
import subprocess
import sys
import time

import ray

# 0 is done; a failed check (1), wrong usage (2) and bad input (3) would end every worker alike.
FINAL = (0, 1, 2, 3)
# What workers are told of the driver's environment: the store, its credentials and where policies come from.
PASSED_ON = ("MINDGAP_", "AWS_", "GOOGLE_", "AZURE_", "HF_")
PAUSE_SECONDS = 5
FAREWELL_SECONDS = 60


class Lost(Exception):
    """A worker ended before its time; another one may go on."""


@ray.remote(scheduling_strategy="SPREAD", retry_exceptions=[Lost])
def work(command, environment):
    """A worker's exit code. Its lines reach the driver as those of this task."""
    with subprocess.Popen(command, env=os.environ | environment) as worker:
        try:
            code = worker.wait()
        except BaseException:
            worker.terminate()
            raise
    if code in FINAL:
        return code
    time.sleep(PAUSE_SECONDS)
    raise Lost(f"`mindgap work` ended with {code}")


def main():
    parser = argparse.ArgumentParser(usage="%(prog)s [options] -- PIPELINE [STAGE..] [--store STORE] [--set KEY=VALUE ..]")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpus-per-worker", type=int, default=1)
    parser.add_argument("--gpus-per-worker", type=float, default=0)
    parser.add_argument("--retries", type=int, default=10, help="how often each worker is started again (-1: always)")
    parser.add_argument("--mindgap", default="mindgap", help="the program, on every node")
    parser.add_argument("work", nargs="+", metavar="ARGUMENT", help="what `mindgap work` takes")
    args = parser.parse_args()

    # The program ends with the Ray process above it, however that ends.
    command = ["setpriv", "--pdeathsig", "TERM", args.mindgap, "work", *args.work, "--threads", str(args.cpus_per_worker)]
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
    ray.init()
    task = work.options(num_cpus=args.cpus_per_worker, num_gpus=args.gpus_per_worker, max_retries=args.retries)
    left = [task.remote(command, environment) for _ in range(args.workers)]
    while left:
        [ended], left = ray.wait(left)
        try:
            code = ray.get(ended)
        except (Lost, ray.exceptions.RayError) as error:
            print(f"a worker is lost for good: {error}", file=sys.stderr)
            continue
        if code == 0 and left:
            ray.wait(left, num_returns=len(left), timeout=FAREWELL_SECONDS)
        sys.exit(code)
    sys.exit(4)


if __name__ == "__main__":
    main()
