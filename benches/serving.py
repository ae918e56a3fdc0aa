"""Code that the scripts share: examples that run as servers, and the resources that they and the kernel use."""
import os, re, signal, subprocess, sys

EXAMPLES = "target/production/examples/"


class Server:
    """A running example that listens on TCP, optionally under a tracer and on the given cores."""

    def __init__(self, example, *flags, tracer=(), cores=None):
        self.process = subprocess.Popen(
            [*tracer, EXAMPLES + example, *flags],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            preexec_fn=lambda: cores and os.sched_setaffinity(0, cores),
        )
        for line in self.process.stdout:
            if found := re.search(r" listens on \S*:(\d+)", line):
                self.port = int(found[1])
                self.addr = ("127.0.0.1", self.port)
                return
        sys.exit(f"{example} does not start")

    @property
    def pid(self):
        return self.process.pid

    def resident(self):
        """Returns the resident memory in bytes, including the program itself."""
        return resident(self.pid)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def used(self):
        """Returns the seconds of processor time, and the number of times that its threads have gone to sleep."""
        tasks = f"/proc/{self.pid}/task"
        nanos = sum(int(read(f"{tasks}/{task}/schedstat").split()[0]) for task in os.listdir(tasks))
        slept = r"^voluntary_ctxt_switches:\s+(\d+)"
        times = sum(int(re.search(slept, read(f"{tasks}/{task}/status"), re.M)[1]) for task in os.listdir(tasks))
        return nanos / 1e9, times

    def stop(self):
        """Shuts the server down gracefully, and kills it if that takes too long."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def interrupt(pid):
    """Interrupts a server, which may run under a tracer."""
    # strace has the server as a child process. valgrind is the server's process itself.
    for child in read(f"/proc/{pid}/task/{pid}/children").split() or [pid]:
        os.kill(int(child), signal.SIGINT)


def resident(pid):
    """Returns the resident memory of a process in bytes."""
    return int(re.search(r"Rss:\s+(\d+)", read(f"/proc/{pid}/smaps_rollup"))[1]) * 1024


def slab():
    """Returns the memory of the kernel's own objects in bytes, including sockets."""
    return int(re.search(r"Slab:\s+(\d+)", read("/proc/meminfo"))[1]) * 1024


def read(path):
    with open(path) as file:
        return file.read()
