#!/usr/bin/env python3
"""Draws docs/architecture.svg, and docs/benchmark.svg from docs/benchmark-data.json.

    docs/diagrams.py            draws them
    docs/diagrams.py --check    fails if a picture is not up to date

Plain Python, no packages. The pictures have their own background and follow the reader's colour scheme.
"""
import json
import pathlib
import sys
from html import escape

DOCS = pathlib.Path(__file__).parent

STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
  .ground { fill: #ffffff; stroke: #d0d7de }
  .title { font-size: 17px; font-weight: 600 }
  .name { font-size: 14px; font-weight: 600 }
  .note { font-size: 11.5px; fill: #59636e }
  .label { font-size: 12.5px }
  .figure { font-size: 12px; font-weight: 600; paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round }
  .loop { fill: #f6f8fa; stroke: #8c959f }
  .behind { fill: #eaeef2; stroke: #afb8c1 }
  .part { fill: #ffffff; stroke: #57606a }
  .yours { fill: #ddf4ff; stroke: #0969da }
  .in { stroke: #0969da; fill: none; stroke-width: 2 }
  .out { stroke: #bc4c00; fill: none; stroke-width: 2 }
  .side { stroke: #6e7781; fill: none; stroke-width: 1.6; stroke-dasharray: 5 4 }
  .tip-in { fill: #0969da } .tip-out { fill: #bc4c00 } .tip-side { fill: #6e7781 }
  .bar-0 { fill: #0969da } .bar-1 { fill: #8c959f } .bar-2 { fill: #bf8700 } .bar-3 { fill: #8250df } .bar-4 { fill: #1a7f37 }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .even { stroke: #cf222e; stroke-width: 1.5; stroke-dasharray: 4 3 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .ground { fill: #0d1117; stroke: #30363d }
    .note { fill: #9198a1 }
    .figure { stroke: #0d1117 }
    .loop { fill: #151b23; stroke: #656c76 }
    .behind { fill: #212830; stroke: #3d444d }
    .part { fill: #0d1117; stroke: #9198a1 }
    .yours { fill: #12304f; stroke: #4493f8 }
    .in { stroke: #4493f8 } .out { stroke: #f0883e } .side { stroke: #9198a1 }
    .tip-in { fill: #4493f8 } .tip-out { fill: #f0883e } .tip-side { fill: #9198a1 }
    .bar-0 { fill: #4493f8 } .bar-1 { fill: #656c76 } .bar-2 { fill: #d29922 } .bar-3 { fill: #ab7df8 } .bar-4 { fill: #3fb950 }
    .grid { stroke: #262c36 }
    .even { stroke: #f85149 }
  }
"""


def document(width, height, title, description, body):
    tips = "".join(
        f'<marker id="tip-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="tip-{kind}" d="M0,0 L8,4 L0,8 z"/></marker>'
        for kind in ("in", "out", "side")
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="title description">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
        f"<style>{STYLE}</style>\n<defs>{tips}</defs>\n"
        f'<rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>\n{body}\n</svg>\n'
    )


def text(x, y, content, kind, anchor="start"):
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(content)}</text>'


def rect(x, y, width, height, kind, radius=6):
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}"/>'


def arrow(points, kind):
    """A line through the points, with a tip at its end."""
    path = " L".join(f"{x},{y}" for x, y in points)
    return f'<path class="{kind}" d="M{path}" marker-end="url(#tip-{kind})"/>'


class Box:
    """A part of the picture: its name, and notes in small print below."""

    def __init__(self, x, y, width, height, name, *notes, kind="part"):
        self.x, self.y, self.width, self.height = x, y, width, height
        middle = x + width / 2
        line = y + height / 2 + 5 - 8 * len(notes)
        self.drawn = rect(x, y, width, height, kind) + text(middle, line, name, "name", "middle")
        for n, note in enumerate(notes, 1):
            self.drawn += text(middle, line + 17 * n, note, "note", "middle")

    left = property(lambda self: (self.x, self.y + self.height / 2))
    right = property(lambda self: (self.x + self.width, self.y + self.height / 2))
    top = property(lambda self: (self.x + self.width / 2, self.y))
    bottom = property(lambda self: (self.x + self.width / 2, self.y + self.height))


def architecture():
    width, height = 980, 462
    peers = Box(22, 88, 150, 70, "peers", "TCP · TLS · Unix · UDP")
    main = Box(22, 208, 150, 74, "main reactor", "accepts, checks limits,", "deals by a policy")
    others = Box(22, 318, 150, 74, "other threads", "Handle · Engine", "worker pool")

    wide, gap, first = 128, 16, 242
    column = [first + n * (wide + gap) for n in range(5)]
    top, bottom, tall = 88, 318, 70
    poll = Box(column[0], top, wide, tall, "poll", "events of", "many sockets")
    conn = Box(column[1], top, wide, tall, "connection", "state machine:", "limits, half-close")
    receive = Box(column[2], top, wide, tall, "receive", "one buffer a loop;", "leftovers kept")
    codec = Box(column[3], top, wide, tall, "codec", "frames that", "borrow the buffer")
    handler = Box(column[4], top, wide, tall, "your handler", "on_open, react,", "on_close …", kind="yours")
    mailbox = Box(column[0], 208, wide, 74, "mailbox", "bounded,", "one wake a batch")
    timers = Box(column[0], bottom, wide, 74, "timer wheel", "timeouts, ticks,", "your timers")
    send = Box(column[4], bottom, wide, 74, "write, send", "codec encodes", "into the arena")
    outbox = Box(column[3], bottom, wide, 74, "outbox", "order, limits,", "water marks")
    flush = Box(column[2], bottom, wide, 74, "flush", "one system call", "a turn")

    lane = 245
    x_in = handler.x + 34
    parts = [
        text(22, 34, "The path of a byte", "title"),
        text(22, 54, "No lock, no task and no copy between the socket and the handler; an idle connection holds no buffer.", "note"),
        rect(234, 82, 734, 340, "behind", 10),
        rect(228, 76, 734, 340, "behind", 10),
        rect(222, 70, 734, 340, "loop", 10),
        text(946, 437, "reactors 1 … N: one thread, one handler value, one set of connections each", "note", "end"),
        # In.
        arrow([peers.right, poll.left], "in"),
        arrow([poll.right, conn.left], "in"),
        arrow([conn.right, receive.left], "in"),
        arrow([receive.right, codec.left], "in"),
        arrow([codec.right, handler.left], "in"),
        # Out.
        arrow([(handler.x + 88, handler.y + handler.height), (handler.x + 88, send.y)], "out"),
        arrow([send.left, outbox.right], "out"),
        arrow([outbox.left, flush.right], "out"),
        arrow([flush.left, (column[1] + wide / 2, 355), (column[1] + wide / 2, 300), (198, 300), (198, 174), (97, 174), peers.bottom], "out"),
        # Beside.
        arrow([(60, peers.y + peers.height), (60, main.y)], "side"),
        arrow([main.right, mailbox.left], "side"),
        arrow([others.right, (210, 355), (210, 262), (mailbox.x, 262)], "side"),
        arrow([mailbox.right, (x_in, lane), (x_in, handler.y + handler.height)], "side"),
        f'<path class="side" d="M{timers.right[0]},{355} L{timers.right[0] + 10},{355} L{timers.right[0] + 10},{lane}"/>',
        text(column[1] + 8, lane - 8, "commands and timers", "note"),
    ]
    boxes = [peers, main, others, poll, conn, receive, codec, handler, mailbox, timers, send, outbox, flush]
    body = "\n".join(parts + [box.drawn for box in boxes])
    description = (
        "Peers' bytes reach a reactor's poll, the connection, the receive buffer, the codec and the handler. The handler's "
        "output is encoded into the outbox and flushed once a turn. The main reactor deals connections through the mailbox, "
        "which other threads use as well; timers fire on the loop."
    )
    return document(width, height, "epicycle: the path of a byte", description, body)


ROW, BAR, LEFT, RIGHT = 21, 13, 300, 90


def panel(data, y, width):
    """One comparison: a row for each load, in each a bar for each server. Returns the drawing and its lower edge."""
    drawn = [text(22, y + 16, data["title"], "name"), text(22, y + 34, data["note"], "note")]
    names = data["servers"]
    at = 22
    if len(names) > 1:
        for n, name in enumerate(names):
            drawn += [rect(at, y + 45, 11, 11, f"bar-{n}", 2), text(at + 16, y + 55, name, "label")]
            at += 34 + 7 * len(name)
    top = y + (66 if len(names) > 1 else 44)
    # A rival that could not be measured has no ratio.
    most = max(ratio for row in data["rows"] for ratio in row["ratios"] if ratio is not None)
    limit = data.get("axis") or most
    scale = (width - LEFT - RIGHT) / limit
    bottom = top + len(data["rows"]) * (ROW - 4 + (BAR + 2) * len(names) - BAR + 2)
    drawn.append(f'<line class="even" x1="{LEFT + scale:.1f}" y1="{top - 4}" x2="{LEFT + scale:.1f}" y2="{bottom}"/>')
    drawn.append(text(LEFT + scale, bottom + 13, data["even"], "note", "middle"))
    row_top = top
    for row in data["rows"]:
        middle = row_top + (BAR + 2) * len(names) / 2 + 3
        drawn.append(text(LEFT - 10, middle, row["label"], "label", "end"))
        for n, ratio in enumerate(row["ratios"]):
            bar_y = row_top + n * (BAR + 2)
            length = min(ratio or 0, limit) * scale
            told = "not measured" if ratio is None else f"{ratio:.2f}" if ratio < 4 else f"{ratio:.1f}"
            drawn.append(rect(LEFT, bar_y, round(max(length, 1), 1), BAR, f"bar-{n}", 2))
            drawn.append(text(round(LEFT + length + 6, 1), bar_y + 11, told + (" →" if ratio and ratio > limit else ""), "figure"))
        row_top += ROW - 4 + (BAR + 2) * len(names) - BAR + 2
    return "\n".join(drawn), bottom + 30


def benchmark(data):
    width = 860
    drawn = [text(22, 34, data["title"], "title"), text(22, 54, data["note"], "note")]
    y = 74
    for each in data["panels"]:
        body, y = panel(each, y, width)
        drawn.append(body)
    described = "; ".join(
        f"{each['title']}: "
        + ", ".join(f"{row['label']} {' and '.join(map(str, row['ratios']))}" for row in each["rows"])
        for each in data["panels"]
    )
    return document(width, y + 2, data["title"], described, "\n".join(drawn))


def main():
    data = json.loads((DOCS / "benchmark-data.json").read_text())
    for name, picture in [("architecture", architecture()), ("benchmark", benchmark(data))]:
        file = DOCS / f"{name}.svg"
        if "--check" not in sys.argv:
            file.write_text(picture)
        elif file.read_text() != picture:
            sys.exit(f"{file} is out of date: run docs/diagrams.py")


if __name__ == "__main__":
    main()
