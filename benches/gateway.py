#!/usr/bin/env python3
"""Compares `epicycle gateway` with nginx and HAProxy as reverse proxies.

    cargo build --profile production --features cli --bin epicycle --example forward
    benches/gateway.py            nine rounds of everything: about ten minutes
    benches/gateway.py --counts   only what does not depend on the machine's load: instructions, system calls, idle clients
    benches/gateway.py --options  only what options cost: limits, the access log, and compression beside nginx
    benches/gateway.py --rounds 1 a quick look

All proxies keep connections to the origin and set X-Forwarded-For. Each has one thread on the first core. The origin and the
load are on the second: nginx and wrk. The proxies take turns on each load, in bursts of one second, and are restarted each
time. Figures of time are medians over the rounds. With enough rights, all of them run with real-time priority, so that other
work on the machine costs them little; it stands still for a second at a time. Instructions are counted by valgrind, as slopes
between few and many requests, so start-up drops out; HAProxy cannot be run there. System calls are counted by strace. Needs
Linux with two cores, and Debian's packages nginx, haproxy, wrk, valgrind and strace. Uses only loopback.
"""
import argparse, http.client, json, os, pathlib, random, re, resource, shutil, socket, statistics, subprocess, sys
import tempfile, time

import count, forward
from forward import FORWARDER_CORE, LOAD_CORE, Forwarder, free_port
from serving import EXAMPLES, resident, slab

EPICYCLE = "target/production/epicycle"
# Debian installs nginx and haproxy there, which is not in every user's PATH.
os.environ["PATH"] += ":/usr/sbin"
IDLE_CLIENTS = 5_000

GATEWAY = """
reactors = 1
{log}
[[listen]]
on = "tcp://127.0.0.1:{port}"
[[route]]
pool = "app"
{route}
[pool.app]
nodes = ["http://127.0.0.1:{origin}"]
# As many as nginx and HAProxy keep here.
max_idle = 1024
"""
NGINX = """
worker_processes 1; master_process off; daemon off; pid pid; error_log errors crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; default_type text/plain; keepalive_requests 1000000000; keepalive_timeout 600;
  client_max_body_size 0; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  map $http_upgrade $hop {{ default upgrade; "" ""; }}
  upstream app {{ server 127.0.0.1:{origin}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $hop;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; {options}
    }}
  }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 7500
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
  http-reuse always
  option splice-auto
frontend all
  bind 127.0.0.1:{port} backlog 4096
  option forwardfor
  default_backend app
backend app
  server a 127.0.0.1:{origin}
"""
ORIGIN = """
worker_processes 1; master_process off; daemon off; pid pid; error_log errors crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; default_type text/plain; keepalive_requests 1000000000; keepalive_timeout 600; sendfile on;
  client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e;
  client_max_body_size 0; client_body_buffer_size 2m;
  upstream self {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ root .; }}
    # It reads the whole body, and then asks itself.
    location /upload {{
      proxy_pass http://self/small; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_method GET; proxy_pass_request_body off; proxy_set_header Content-Length "";
    }}
    location /small {{
      add_header X-Request-Id 8c2f0d5e; add_header Cache-Control "max-age=60"; return 200 "{small}";
    }}
  }}
}}
"""


def server(command, configuration, core=FORWARDER_CORE, tool=(), **words):
    """Starts a server on a free port, with its configuration in a folder of its own."""
    port, folder = free_port(), tempfile.TemporaryDirectory(prefix="gateway-")
    words |= {"port": port, "folder": folder.name}
    pathlib.Path(folder.name, "configuration").write_text(configuration.format(**words))
    command = [word.format(**words) for word in command]
    return Forwarder([*tool, shutil.which(command[0]), *command[1:]], port, folder, core)


def nginx(options=""):
    command = ["nginx", "-p", "{folder}/", "-c", "{folder}/configuration"]
    return lambda origin, **how: server(command, NGINX, options=options, origin=origin, **how)


def epicycle(log="", route=""):
    command = [EPICYCLE, "gateway", "--config", "{folder}/configuration"]
    return lambda origin, **how: server(command, GATEWAY, log=log, route=route, origin=origin, **how)


def haproxy(origin, **how):
    return server(["haproxy", "-db", "-f", "{folder}/configuration"], HAPROXY, origin=origin, **how)


def forwarder(origin, **how):
    to = ["--listen", "tcp://127.0.0.1:{port}", "--to", f"tcp://127.0.0.1:{origin}", "--reactors", "1"]
    return server([EXAMPLES + "forward", *to], "", **how)


PROXIES = {
    "epicycle": epicycle(),
    "epicycle, access log": epicycle('log.access = { to = "access.log" }'),
    "nginx": nginx(),
    "nginx, unbuffered": nginx("proxy_buffering off; proxy_request_buffering off;"),
    "HAProxy": haproxy,
}


# Rates that nobody reaches.
LIMIT = '{{ rate = "1000000/s", burst = 1000000, by = "{by}" }}'
OPTIONS = {
    "no options": epicycle(),
    "limit by address": epicycle(route="limit = " + LIMIT.format(by="ip")),
    "limit by a field": epicycle(route="limit = " + LIMIT.format(by="header:User-Agent")),
    "three limits": epicycle(route="limit = [" + ", ".join(LIMIT.format(by=by) for by in ("ip", "header:A", "route")) + "]"),
    "access log, JSON": epicycle('log.access = { to = "access.log" }'),
    "access log, combined": epicycle('log.access = { to = "access.log", format = "combined" }'),
}
GZIP = (
    "gzip on; gzip_comp_level {level}; gzip_types text/plain; gzip_proxied any; "
    "proxy_buffers 8 256k; proxy_buffer_size 256k;"
)
WORDS = """amber basin cedar delta ember fjord grove haven inlet jetty knoll ledge marsh north ocean pearl quartz ridge slate
thorn""".split()


def records(size):
    """Returns JSON of about so many bytes: records as of a shop, the same in each run."""
    chance, out = random.Random(7), []
    while len(out) * 200 < size:
        out.append({
            "id": chance.getrandbits(32),
            "name": " ".join(chance.sample(WORDS, 2)),
            "price": chance.randrange(100_000) / 100,
            "in_stock": chance.random() < 0.7,
            "tags": chance.sample(WORDS, 3),
            "description": " ".join(chance.choice(WORDS) for _ in range(12)),
        })
    return json.dumps(out).encode()[:size]


def origin():
    """Starts the origin."""
    command = ["nginx", "-p", "{folder}/", "-c", "{folder}/configuration"]
    running = server(command, ORIGIN, LOAD_CORE, small="0123456789abcdef" * 8)
    for name, size in (("64k", 64 << 10), ("1m", 1 << 20)):
        pathlib.Path(running.directory.name, name).write_bytes(b"x" * size)
        pathlib.Path(running.directory.name, name + ".json").write_bytes(records(size))
    return running


class Wrk:
    """A load of wrk: GETs of a path, or uploads of so many bytes."""

    def __init__(self, connections, path, upload=0):
        self.connections, self.path, self.upload = connections, path, upload

    def run(self, name, port, seconds=1):
        """Returns the number of requests, those in a second, and the time of the slowest hundredth in milliseconds."""
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(f'wrk.method = "PUT"\nwrk.body = string.rep("x", {self.upload})\n' if self.upload else "")
            script.flush()
            command = ["wrk", "-t1", f"-c{self.connections}", f"-d{seconds}s", "--latency", "-s", script.name]
            url = f"http://127.0.0.1:{port}{self.path}"
            said = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in said:
            sys.exit(f"{name}: {said}")
        if errors := re.search("Socket errors.*", said):
            print(f"{name}: {errors[0]}", file=sys.stderr)
        p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
        return (
            int(re.search(r"(\d+) requests in", said)[1]),
            float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),
            float(p99) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit],
        )


LOADS = {
    "small GET, c64": Wrk(64, "/small"),
    "small GET, c512": Wrk(512, "/small"),
    "GET of 64 KiB, c16": Wrk(16, "/64k"),
    "GET of 1 MiB, c8": Wrk(8, "/1m"),
    "upload of 64 KiB, c16": Wrk(16, "/upload", 64 << 10),
    "upload of 1 MiB, c8": Wrk(8, "/upload", 1 << 20),
}


def prefer(pid=0):
    """Gives a process, and those that it starts, real-time priority, if that is allowed."""
    try:
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        print("without real-time priority, so other work on this machine counts", file=sys.stderr)


def turns(names, turn):
    return names if turn % 2 == 0 else names[::-1]


def loads(origin, rounds):
    """Measures all proxies on all loads. Returns a list of (CPU in us a request, requests/s, p99 in ms, Rss) for each."""
    results = {(load, name): [] for load in LOADS for name in PROXIES}
    for turn in range(rounds):
        for load, wrk in LOADS.items():
            for name in turns(list(PROXIES), turn):
                proxy = PROXIES[name](origin)
                try:
                    cpu = proxy.cpu()
                    requests, rate, p99 = wrk.run(name, proxy.addr[1])
                    cost = (proxy.cpu() - cpu) / requests * 1e6
                    results[load, name].append((cost, rate, p99, resident(proxy.process.pid)))
                finally:
                    proxy.stop()
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return results


def upgraded(listener, addr):
    """Returns both ends of a connection through the proxy that has changed to the WebSocket protocol."""
    near = socket.create_connection(addr)
    ask = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    near.sendall(ask + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    far = listener.accept()[0]
    head(far)
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    far.sendall(answer + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
    head(near)
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def head(peer):
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += peer.recv(4096)


TUNNELS = {
    "epicycle": (epicycle(), upgraded),
    "examples/forward": (forwarder, forward.connected),
    "nginx": (nginx(), upgraded),
    "HAProxy": (haproxy, upgraded),
}


def tunnels(rounds):
    """Returns lists of (CPU in us a message of 64 bytes, CPU in s a GiB) by proxy."""
    results = {name: [] for name in TUNNELS}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        for turn in range(rounds):
            for name in turns(list(TUNNELS), turn):
                start, connect = TUNNELS[name]
                proxy = start(listener.getsockname()[1])
                try:
                    forward.drop_probe(listener)
                    begin = proxy.cpu()
                    messages = forward.ping_pong(listener, proxy.addr, 50, 20_000, connect)
                    between = proxy.cpu()
                    gib = forward.bulk(listener, proxy.addr, 1, forward.GIB, connect)
                    results[name].append(((between - begin) / messages, (proxy.cpu() - between) / gib))
                finally:
                    proxy.stop()
    return results


def small(port):
    return f"GET /small HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def instructions(start, origin):
    """Returns the user instructions for a small GET."""

    def total(requests):
        with tempfile.NamedTemporaryFile("r") as log:
            tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
            proxy = start(origin, tool=tool)
            count.messages(proxy.addr, requests, message=small(proxy.addr[1]))
            proxy.stop()
            return int(re.findall(r"Collected : (\d+)", log.read())[-1])

    few, many = 1_600, 8_000
    return (total(many) - total(few)) / (many - few)


def system_calls(name, origin):
    """Returns the system calls for a small GET of 64 clients, by name."""
    with tempfile.NamedTemporaryFile("r") as log:
        proxy = PROXIES[name](origin, tool=["strace", "-f", "-c", "-o", log.name])
        requests = LOADS["small GET, c64"].run(name, proxy.addr[1], 2)[0]
        proxy.stop()
        lines = [line.split() for line in log.read().splitlines()]
    calls = {fields[-1]: int(fields[3]) / requests for fields in lines if len(fields) >= 5 and fields[3].isdigit()}
    return {name: n for name, n in calls.items() if n >= 0.05 and name != "total"}


def idle_client(start, origin):
    """Returns the bytes of the proxy and of the kernel for a client that has had an answer and keeps its connection."""
    proxy = start(origin)

    def visit():
        peer = socket.create_connection(proxy.addr)
        peer.sendall(small(proxy.addr[1]))
        peer.recv(65536)
        return peer

    # Memory that is allocated only once must not count.
    for peer in [visit() for _ in range(100)]:
        peer.close()
    time.sleep(0.5)
    before, slab_before = resident(proxy.process.pid), slab()
    peers = [visit() for _ in range(IDLE_CLIENTS)]
    time.sleep(0.5)
    used, slab_used = resident(proxy.process.pid) - before, slab() - slab_before
    for peer in peers:
        peer.close()
    proxy.stop()
    return used / IDLE_CLIENTS, slab_used / IDLE_CLIENTS / 2


def table(head, rows):
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def report_loads(results):
    median = lambda load, name, at: statistics.median(result[at] for result in results[load, name])
    print("\nCPU of the proxy, microseconds a request (requests a second; the 99th percentile in ms)")
    table(["", *PROXIES], [
        [load, *(f"{median(load, name, 0):,.1f} ({median(load, name, 1):,.0f}; {median(load, name, 2):.2f})" for name in PROXIES)]
        for load in LOADS
    ])
    print("\nCPU a request of epicycle, as a share of that of others: median over the rounds")
    ratio = lambda load, name: statistics.median(
        ours[0] / theirs[0] for ours, theirs in zip(results[load, "epicycle"], results[load, name])
    )
    others = [name for name in PROXIES if name != "epicycle"]
    table(["", *others], [[load, *(f"{ratio(load, name):.2f}" for name in others)] for load in LOADS])
    print("\nResident memory after the load, MiB")
    table(["", *PROXIES], [[load, *(f"{median(load, name, 3) / 2**20:.1f}" for name in PROXIES)] for load in LOADS])


def report_counts(origin):
    rows = []
    for name, start in PROXIES.items():
        if name == "nginx, unbuffered":
            continue
        steps = "-" if name == "HAProxy" else f"{instructions(start, origin):,.0f}"
        calls = system_calls(name, origin)
        named = ", ".join(f"{n:.2f} {call}" for call, n in sorted(calls.items(), key=lambda item: -item[1]))
        used, kernel = idle_client(start, origin)
        rows.append([name, steps, f"{sum(calls.values()):.2f}: {named}", f"{used:.0f}", f"{kernel:.0f}"])
    table(["", "user instructions", "system calls", "bytes an idle client", "of the kernel"], rows)


def compressed(addr, path, requests):
    """Asks for compressed responses, one after the other on one connection. Returns the bytes of one."""
    client = http.client.HTTPConnection(*addr)
    for _ in range(requests):
        client.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = client.getresponse()
        body = answer.read()
        if answer.status != 200 or answer.getheader("Content-Encoding") != "gzip":
            sys.exit(f"{addr}: {answer.status}, not compressed")
    client.close()
    return len(body)


def pair(level):
    """Returns the gateway and nginx, which compress at the same level."""
    return {"epicycle": epicycle(route=f"compress = {{ level = {level} }}"), "nginx": nginx(GZIP.format(level=level))}


def compression_counts(start, origin, path):
    """Returns the user instructions for a compressed response, and its bytes."""

    def total(requests):
        with tempfile.NamedTemporaryFile("r") as log:
            tool = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={log.name}"]
            proxy = start(origin, tool=tool)
            size = compressed(proxy.addr, path, requests)
            # nginx misses a signal that comes just before it waits, which takes long here.
            time.sleep(0.5)
            proxy.stop()
            return int(re.findall(r"Collected : (\d+)", log.read())[-1]), size

    (many, size), (few, _) = total(12), total(4)
    return (many - few) / 8, size


def in_turns(proxies, origin, rounds, load):
    """Returns the CPU of a request in microseconds for each round, by proxy. A load returns the number of its requests."""
    spent = {name: [] for name in proxies}
    for turn in range(rounds):
        for name in turns(list(proxies), turn):
            proxy = proxies[name](origin)
            try:
                begin = proxy.cpu()
                requests = load(name, proxy.addr)
                spent[name].append((proxy.cpu() - begin) / requests * 1e6)
            finally:
                proxy.stop()
    return spent


def report_options(running, rounds):
    origin = running.addr[1]
    ratio = lambda ones, others: statistics.median(one / other for one, other in zip(ones, others))
    counts = {name: instructions(start, origin) for name, start in OPTIONS.items()}
    bodies = [("/64k.json", 200), ("/1m.json", 20)]
    compressions = [(path, level, requests) for path, requests in bodies for level in (1, 5, 9)]
    counted = {
        (path, level, name): compression_counts(start, origin, path)
        for path, level, _ in compressions
        for name, start in pair(level).items()
    }
    prefer()
    prefer(running.process.pid)
    spent = in_turns(OPTIONS, origin, rounds, lambda name, addr: LOADS["small GET, c64"].run(name, addr[1])[0])
    plain = "no options"
    print("\nUser instructions and CPU in microseconds for a small GET; ratios are medians over the rounds")
    rows = []
    for name, each in spent.items():
        more, cpu = counts[name] / counts[plain] - 1, statistics.median(each)
        rows.append([name, f"{counts[name]:,.0f}", f"{more:.1%}", f"{cpu:.1f}", f"{ratio(each, spent[plain]):.2f}"])
    table(["", "instructions", "more", "CPU", "ratio"], rows)
    rows = []
    for path, level, requests in compressions:

        def load(name, addr):
            compressed(addr, path, requests)
            return requests

        spent = in_turns(pair(level), origin, rounds, load)
        row = [f"{path[1:]}, level {level}"]
        for name, each in spent.items():
            steps, size = counted[path, level, name]
            row += [f"{steps / 1e6:,.2f}", f"{statistics.median(each) / 1e3:.2f}", f"{size:,}"]
        rows.append([*row, f"{ratio(spent['epicycle'], spent['nginx']):.2f}"])
    print("\nA compressed response of JSON: millions of user instructions, CPU in ms, bytes")
    columns = ["instructions", "CPU", "bytes"]
    table(["", *(f"{name}: {column}" for name in pair(1) for column in columns), "ratio of CPU"], rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--options", action="store_true")
    flags = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setaffinity(0, LOAD_CORE)
    running = origin()
    try:
        if not flags.options:
            report_counts(running.addr[1])
        if flags.counts:
            return
        if flags.options:
            return report_options(running, flags.rounds)
        prefer()
        prefer(running.process.pid)
        report_loads(loads(running.addr[1], flags.rounds))
    finally:
        running.stop()
    print("\nTunnels: CPU of the proxy, microseconds a message of 64 bytes, and seconds a GiB")
    medians = {name: map(statistics.median, zip(*results)) for name, results in tunnels(flags.rounds).items()}
    table(["", "message", "GiB"], [[name, f"{message:.2f}", f"{gib:.3f}"] for name, (message, gib) in medians.items()])


if __name__ == "__main__":
    main()
