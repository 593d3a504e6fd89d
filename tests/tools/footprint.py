#!/usr/bin/env python3
"""How soon the first token comes, and how much memory Ostro has of its own, with a GGUF file in the page cache.

Usage: footprint.py MODEL.gguf [--ostro PATH] [-r 5]     (Linux)
Prints the time from launch to the first token of a one-token prompt (median of the turns), and the largest RssAnon while
512 tokens are read and 64 generated, against the KV cache.
"""
import argparse, json, re, statistics, subprocess, sys, time
from pathlib import Path


def first_token(command, path):
    """Seconds from launch until the token is on standard output."""
    start = time.perf_counter()
    run = subprocess.Popen([command, "run", path, "--raw", "-p", "a", "-n", "1", "--temp", "0", "--no-display-prompt",
                            "--ignore-eos"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout.read(1), "no token came"
    took = time.perf_counter() - start
    run.communicate()
    return took


def anonymous(command, path, words, predict):
    """The largest RssAnon of a run, in bytes, seen every 2 ms."""
    prompt = " ".join(["a"] * words)
    run = subprocess.Popen([command, "run", path, "--raw", "-p", prompt, "-n", str(predict), "-c", "1024", "--temp", "0",
                            "--ignore-eos"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while run.poll() is None:
        try:
            found = re.search(r"RssAnon:\s*(\d+)", Path(f"/proc/{run.pid}/status").read_text())
        except OSError:
            break
        most = max(most, int(found[1]) * 1024 if found else 0)
        time.sleep(0.002)
    if run.wait() != 0:
        sys.exit("ostro run failed")
    return most


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("model", type=Path)
    a.add_argument("--ostro", default=Path(__file__).parents[2] / "target/release/ostro")
    a.add_argument("-r", type=int, default=5)
    o = a.parse_args()
    info = json.loads(subprocess.run([o.ostro, "inspect", o.model, "--json"], capture_output=True, check=True).stdout)
    first_token(o.ostro, o.model)  # brings the file into the page cache, as far as a token needs it
    times = [first_token(o.ostro, o.model) for _ in range(o.r)]
    print(f"first token after {statistics.median(times):.3f} s (of {o.r}: {min(times):.3f} to {max(times):.3f})")
    cache = 1024 * info["model"]["kv_bytes_per_token"]["f16"]
    for what, words, predict in [("generating 64 tokens", 1, 64), ("a prompt of 512 tokens", 512, 1)]:
        print(f"{what}: {anonymous(o.ostro, o.model, words, predict) / 1e6:.0f} MB anonymous, "
              f"of which {cache / 1e6:.0f} MB KV cache at most")


if __name__ == "__main__":
    main()
