"""The servers of the comparison: builds, starts and ends them, and finds their versions."""
import os, pathlib, re, resource, shutil, signal, socket, subprocess, tempfile, time

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "target/production/examples"
RIVALS = ROOT / "benches/rivals"
BUILT = RIVALS / "target/release"
SERVER_CORE, LOAD_CORE = {0}, {1}

# Debian installs nginx and haproxy there, which is not in every user's PATH.
os.environ["PATH"] += ":/usr/sbin"

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; use epoll; multi_accept on; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600; tcp_nodelay on; default_type text/plain;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 "Hello World!"; }} }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend all
  bind 127.0.0.1:{port} backlog 1024
  http-request return status 200 content-type text/plain string "Hello World!"
"""


class Server:
    """A server with a name. Its command and its configuration may contain {port}, {buffer} and {folder}."""

    def __init__(self, name, *command, version=lambda: "", configuration="", mode=None):
        self.name, self.command, self.configuration, self.mode = name, list(map(str, command)), configuration, mode
        self.version = version

    def missing(self):
        """Returns the name of the program if it is missing."""
        return None if shutil.which(self.command[0]) else self.command[0]


class Running:
    """A running server, pinned to its core. It is restarted for each measurement, so that a lucky memory layout does not
    favour one server throughout. Raises OSError if it does not start."""

    def __init__(self, server, buffer, patience=5):
        self.folder = tempfile.TemporaryDirectory(prefix="side-by-side-")
        self.port = free_port()
        words = {"port": self.port, "buffer": buffer, "folder": self.folder.name}
        pathlib.Path(self.folder.name, "configuration").write_text(server.configuration.format(**words))
        self.output = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [word.format(**words) for word in server.command],
            stdout=self.output, stderr=self.output, preexec_fn=prepare,
        )
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.005)
        self.stop()
        raise OSError(f"it does not listen: {self.words()}")

    def words(self):
        """Returns the last line that the server has printed."""
        self.output.seek(0)
        return (self.output.read().strip().splitlines() or ["it prints nothing"])[-1]

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.folder.cleanup()


def prepare():
    """Prepares a server before its start: sets its core, and its limit on descriptors."""
    os.sched_setaffinity(0, SERVER_CORE)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def free_port(ports=iter(range(21_000, 32_000))):
    """Returns the next free port, below those that the kernel assigns to clients."""
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise OSError("no port is free from 21000 to 31999")


def build():
    """Builds the servers of this repository. Reports those that cannot be built."""
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    examples = [word for name in ("echo", "http", "websocket_echo") for word in ("--example", name)]
    own = ["cargo", "build", "--profile", "production", "--features", "tls,http,ws", *examples]
    subprocess.run(own, cwd=ROOT, env=environment, check=True)
    subprocess.run(["cargo", "build", "--release"], cwd=RIVALS, env=environment, check=True)
    for name, libraries in (("bare_echo", []), ("bare_http", []), ("libuv_echo", ["-luv"])):
        (BUILT / name).unlink(missing_ok=True)
        command = ["cc", "-O3", "-Wall", "-o", BUILT / name, RIVALS / f"c/{name}.c", *libraries]
        if subprocess.run(command).returncode != 0:
            print(f"LEFT OUT: {name} cannot be built here" + (" (apt-get install libuv1-dev)" if libraries else ""))


def printed(*command):
    """Returns the output of a command, or nothing if it is missing or fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def program(name, *command):
    """Finds a version in the output of a command."""
    return lambda: f"{name} " + (re.search(r"\d+\.\d+[\w.]*", printed(*command)) or ["unknown"])[0]


def crates(*names, folder=RIVALS):
    """Finds versions in the lock file of the rivals."""
    locked = dict(re.findall(r'name = "(.+)"\nversion = "(.+)"', (folder / "Cargo.lock").read_text()))
    return lambda: ", ".join(f"{name} {locked[name]}" for name in names)


def own_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    commit = printed("git", "rev-parse", "--short", "HEAD")
    return f"epicycle {version}" + (f" at {commit}" if commit else "")


def own(example, *more):
    flags = ["--addr", "tcp4://127.0.0.1:{port}", "--reactors", "1", *more]
    return Server("epicycle", EXAMPLES / example, *flags, version=own_version)


def rival(name, program_name, *flags, packages):
    return Server(name, BUILT / program_name, "{port}", "--buffer", "{buffer}", *flags, version=crates(*packages))


C = program("cc", "cc", "-dumpfullversion")
ECHO = [
    own("echo"),
    Server("bare loop in C", BUILT / "bare_echo", "{port}", version=C),
    Server("two-phase loop in C", BUILT / "bare_echo", "{port}", "two-phase"),
    Server("libuv", BUILT / "libuv_echo", "{port}", version=program("libuv", "pkg-config", "--modversion", "libuv")),
    rival("tokio", "tokio_echo", packages=["tokio"]),
    rival("monoio, io_uring", "monoio_echo", packages=["monoio"]),
    rival("monoio, epoll", "monoio_echo", "--epoll", packages=["monoio"]),
    rival("message-io", "message_io_echo", packages=["message-io"]),
    rival("mill-net", "mill_net_echo", packages=["mill-net"]),
    Server(
        "redis PING", "redis-server", "--port", "{port}", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
        "--maxclients", "4096", "--dir", "{folder}", version=program("redis", "redis-server", "--version"), mode="ping",
    ),
]
HTTP = [
    own("http", "--hello"),
    Server("bare server in C", BUILT / "bare_http", "{port}", version=C),
    rival("hyper", "hyper_http", packages=["hyper", "tokio"]),
    rival("may_minihttp", "may_http", packages=["may_minihttp", "may"]),
    Server(
        "nginx", "nginx", "-e", "stderr", "-c", "{folder}/configuration",
        version=program("nginx", "nginx", "-v"), configuration=NGINX,
    ),
    Server(
        "haproxy", "haproxy", "-db", "-f", "{folder}/configuration",
        version=program("haproxy", "haproxy", "-v"), configuration=HAPROXY,
    ),
]
WEBSOCKET = [
    own("websocket_echo"),
    rival("tungstenite", "tungstenite_echo", packages=["tokio-tungstenite", "tokio"]),
    rival("fastwebsockets", "fastwebsockets_echo", packages=["fastwebsockets", "hyper", "tokio"]),
]
