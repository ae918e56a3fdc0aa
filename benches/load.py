#!/usr/bin/env python3
"""Compares the load generator's own cost with wrk's: processor time for a request, and requests in a second.

    cargo build --profile production --features cli --bin epicycle --example http && benches/load.py [ROUNDS]

The server, the example http with one reactor, runs on the first core. The generators, each with one thread, take turns on the
second. The results are medians over the rounds, with the least and the most. The processor time is that of the whole process,
including its start and its report. Needs Linux with two cores, and Debian's package wrk. Uses only loopback. A round takes
about 20 s.
"""
import json, os, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

EXAMPLES = "target/production/examples"
PROGRAM = "target/production/epicycle"
ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 5
SECONDS = 2
SERVER_CORE, LOAD_CORE = {0}, {1}

# The number of connections, and of requests under way on each.
LOADS = [(1, 1), (16, 1), (64, 1), (256, 1), (64, 16)]

# wrk sends the text that `request` returns, and counts the responses.
PIPELINE = """
init = function(args)
  local one = wrk.format("GET", "/")
  request_text = string.rep(one, tonumber(args[1]))
end
request = function() return request_text end
"""


def run(command):
    """Returns the output of a command, and its processor time in seconds."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command, stdout=out, preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORE))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{command} fails")
        out.seek(0)
        return out.read(), usage.ru_utime + usage.ru_stime


def load(url, connections, pipeline, _script):
    out, cpu = run([
        PROGRAM, "load", url, "--json", "--warm-up", "0s", "--duration", f"{SECONDS}s",
        "--connections", str(connections), "--pipeline", str(pipeline)])
    report = json.loads(out)
    return report["throughput"]["answers_per_s"], cpu * 1e6 / report["requests"]["answered"]


def wrk(url, connections, pipeline, script):
    more = ["-s", script, url, "--", str(pipeline)] if pipeline > 1 else [url]
    out, cpu = run(["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", *more])
    requests = int(re.search(r"(\d+) requests in", out)[1])
    return float(re.search(r"Requests/sec:\s*(\S+)", out)[1]), cpu * 1e6 / requests


GENERATORS = {"load": load, "wrk": wrk}


def start_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [f"{EXAMPLES}/http", "--port", str(port), "--reactors", "1"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE))
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return server, f"http://127.0.0.1:{port}/"
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit("the server does not listen")


def main():
    for needed in (PROGRAM, f"{EXAMPLES}/http"):
        if not os.path.exists(needed):
            sys.exit(f"{needed} is missing; how to build it:\n{__doc__}")
    if not shutil.which("wrk"):
        sys.exit("wrk is missing: apt-get install wrk")
    results = {(load, name): [] for load in LOADS for name in GENERATORS}
    server, url = start_server()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(PIPELINE)
            script.flush()
            for turn in range(ROUNDS):
                for connections, pipeline in LOADS:
                    for name, generate in sorted(GENERATORS.items(), key=lambda _: os.urandom(4)):
                        result = generate(url, connections, pipeline, script.name)
                        results[(connections, pipeline), name].append(result)
                print(f"round {turn + 1} of {ROUNDS}", file=sys.stderr)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
    print("| Connections x requests under way | load, CPU µs a request | wrk | load, requests a second | wrk |")
    print("|---|---|---|---|---|")
    for connections, pipeline in LOADS:
        shown = {name: list(zip(*results[(connections, pipeline), name])) for name in GENERATORS}
        cells = []
        for index, digits in ((1, 1), (0, 0)):
            for name in GENERATORS:
                of = shown[name][index]
                cells.append(f"{min(of):,.{digits}f} **{statistics.median(of):,.{digits}f}** {max(of):,.{digits}f}")
        print(f"| {connections:,} x {pipeline} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
