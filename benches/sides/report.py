"""Tables of the results, for a terminal and for docs/benchmarks.md, and the figures for docs/benchmark.svg."""
import json, re, statistics, subprocess, sys

from sides.servers import ROOT

DOCS = ROOT / "docs"


def ratio(group, results, load, server):
    """Returns a server's cost as a multiple of the base's: the median of the rounds' ratios. None if one of the two failed."""
    of, to = results.get((load.name, server)), results.get((load.name, group.base))
    if not of or not to:
        return None
    return statistics.median(microseconds(a) / microseconds(b) for a, b in zip(of, to))


def brief(number):
    """Formats a number with three digits, or with all digits before the point."""
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def spread(numbers):
    return f"{brief(statistics.median(numbers))} ({brief(min(numbers))} to {brief(max(numbers))})"


def matrix(group, results, failures, cell):
    """Returns a table with a row for each server and a column for each load."""
    lines = ["| | " + " | ".join(load.name for load in group.loads) + " |", "|---" * (len(group.loads) + 1) + "|"]
    for server in group.servers:
        cells = []
        for load in group.loads:
            reports = results.get((load.name, server.name))
            failed = "failed" if (load.name, server.name) in failures else ""
            cells.append(cell(load, server.name, reports) if reports else failed)
        if any(cells):
            lines.append(f"| {server.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(group, results, failures):
    """Returns all results of a group as Markdown."""
    table = lambda cell: matrix(group, results, failures, cell)
    cost = f"Processor time of the server a {group.unit}"
    versions = dict.fromkeys(version for server in group.servers if (version := server.version()))
    parts = [
        f"{cost}; {group.base} = 1:",
        table(lambda load, server, _: brief(ratio(group, results, load, server))),
        f"{cost}, in µs: median, least and most:",
        table(lambda _, __, reports: spread(list(map(microseconds, reports)))),
        f"Thousands of {group.unit}s a second:",
        table(lambda _, __, reports: brief(median(reports, lambda each: each["answers"] / each["seconds"] / 1e3))),
        "Latency in µs, p50 and p99:",
        table(lambda _, __, reports: " and ".join(brief(median(reports, lambda each: each[key])) for key in ("p50_us", "p99_us"))),
        f"Resident memory of the server under the load {group.memory}, in MiB: {memory(group, results)}.",
        f"Versions: {', '.join(versions)}.",
    ]
    if failures:
        reports = (f"{server}, {load}: {why}" for (load, server), why in failures.items())
        parts.append(f"Failed: {'; '.join(reports)}.")
    return "\n\n".join(parts)


def microseconds(reports):
    return reports["cpu_seconds"] / reports["answers"] * 1e6


def median(reports, figure):
    return statistics.median(map(figure, reports))


def memory(group, results):
    reports = {server.name: results.get((group.memory, server.name)) for server in group.servers}
    mebibytes = lambda each: each["resident_bytes"] / 2**20
    return ", ".join(f"{name} {brief(median(of, mebibytes))}" for name, of in reports.items() if of)


def write(head, texts, played):
    """Writes the tables between their marks in docs/benchmarks.md, and draws the picture again."""
    fill({f"side-by-side: {name}": text for name, text in {"machine": head, **texts}.items()})
    picture = DOCS / "benchmark-data.json"
    data = json.loads(picture.read_text())
    for panel in data["panels"]:
        for group, results, _ in played:
            if panel.get("group") == group.name:
                draw(panel, group, results)
    picture.write_text(as_text(data))
    subprocess.run([sys.executable, DOCS / "diagrams.py"], check=True)


def write_only(head, texts):
    """Writes the tables of some groups. They were measured apart from the others, so each has the machine of its own."""
    fill({f"side-by-side: {name}": f"{head}\n\n{text}" for name, text in texts.items()})


def fill(texts):
    """Writes each text between the marks with its name in docs/benchmarks.md."""
    page = DOCS / "benchmarks.md"
    content = page.read_text()
    for name, text in texts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if content.count(begin) != 1 or content.count(end) != 1:
            sys.exit(f"{page} lacks the marks {begin} and {end}")
        before, rest = content.split(begin)
        content = before + begin + "\n" + text + "\n" + end + rest.split(end)[1]
    page.write_text(content)


def draw(panel, group, results):
    """Sets the ratios of a panel's servers under its loads. Each row names its load."""
    for row in panel["rows"]:
        load = next(load for load in group.loads if load.name == row["load"])
        found = [ratio(group, results, load, server) for server in panel["servers"]]
        row["ratios"] = [None if each is None else round(each, 2) for each in found]


def as_text(data):
    """Formats JSON as in the repository: each list of plain values and each row is on one line."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    text = re.sub(r"\[([^\[\]{}]*)\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    return re.sub(r'\{\s*("(?:label|load)"[^{}]*?)\s*\}', lambda found: "{ " + " ".join(found[1].split()) + " }", text)
