#!/usr/bin/env python3
"""Counts the user instructions for a request with 12 headers that a proxy passes on, with its response.

    cargo bench --features http --bench relay --no-run && benches/count_relay.py target/release/deps/relay-*

"none" passes no headers on, and shows what everything else costs. It runs only the HTTP codecs, without sockets, and takes the slope between few and many requests. Needs valgrind.
"""
import subprocess, sys, tempfile


def instructions(binary, way, count):
    with tempfile.NamedTemporaryFile("r") as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", binary, way, str(count)]
        subprocess.run(command, check=True, capture_output=True)
        totals = [line for line in out if line.startswith("totals:")]
        return int(totals[0].split()[1])


if __name__ == "__main__":
    binary = next(path for path in sys.argv[1:] if not path.endswith(".d"))
    for way in ("none", "headers", "lines"):
        few, many = (instructions(binary, way, count) for count in (100, 1100))
        print(f"{way + ':':9} {(many - few) / 1000:7.0f} instructions a request")
