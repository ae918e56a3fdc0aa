"""Describes the machine, and reports if it was quiet during the measurements."""
import datetime, os, pathlib, re, time

from sides.servers import printed


class Watch:
    """Observes the machine from before the first measurement until after the last, when `words` is called."""

    def __init__(self):
        self.busy_before = foreign_load()
        self.times = processor_times()

    def words(self):
        busy = max(self.busy_before, foreign_load())
        now = processor_times()
        spent = [after - before for before, after in zip(self.times, now)]
        stolen = spent[7] / max(sum(spent[:8]), 1)
        quiet = busy < 0.05 and stolen < 0.01
        detail = f"other work used {busy:.0%} of it before or after, and its host took {stolen:.1%} during the measurements"
        if quiet:
            return f"The machine was quiet: {detail}."
        return f"**The machine was not quiet**: {detail}. Measure again when it is."


def processor_times():
    """Returns user, nice, system, idle, iowait, irq, softirq and steal, in ticks since the machine started."""
    return [int(ticks) for ticks in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:]]


def foreign_load():
    """Returns the busy fraction of all cores while nothing is measured."""
    before = processor_times()
    time.sleep(1)
    spent = [after - before for before, after in zip(before, processor_times())]
    return 1 - (spent[3] + spent[4]) / max(sum(spent[:8]), 1)


def description(watched, rounds, seconds):
    cpu = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) / 2**20
    release = os.uname().release.split("-")[0]
    rustc = printed("rustc", "--version").split()[1:2]
    cores = f"{os.cpu_count()} cores of {cpu[1].strip() if cpu else os.uname().machine}"
    return (
        f"{datetime.date.today()}; {cores}, {memory:.0f} GiB, Linux {release}, Rust {''.join(rustc)}; "
        f"{rounds} round{'s' if rounds > 1 else ''} of {seconds} s each. {watched.words()}"
    )
