"""Fuzz every target with atheris (libFuzzer), guided by coverage of this package.

    python -m tests.fuzz.run [--runs N] [--seed S] [--jobs J] [--out DIR] [--target NAME ...]
    python -m tests.fuzz.run --target NAME --reproduce FILE

The first form needs the extra `fuzz`. Each target runs in a process of its own, from the committed
corpus and nothing else, so equal seeds do equal work. DIR/fuzz.json has what was done; an input
that breaks a promise stays under DIR/fuzz/NAME, and the exit code is then 1. The second form runs
one input without atheris and shows the traceback.
"""

import argparse
import concurrent.futures
import importlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.make_corpus import CORPUS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
SLOWEST_INPUT_SECONDS = 30
LARGEST_MIB = 2048
_DONE = re.compile(r"^#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/", re.MULTILINE)
_UNITS = re.compile(r"^stat::number_of_executed_units:\s+(\d+)", re.MULTILINE)


def fuzz_here(name: str, arguments: list[str]) -> None:
    """Become libFuzzer for one target. Does not return."""
    import atheris

    with atheris.instrument_imports(include=["collabedit"]):
        module = importlib.import_module(f"tests.fuzz.targets.{name}")
    module.seeds()  # what targets prepare once is not an input's time
    atheris.Setup([name, *arguments], module.run)
    atheris.Fuzz()


def fuzz_target(name: str, *, runs: int, seed: int, out: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own and return what there is to report."""
    target, place = TARGETS[name], out / "fuzz" / name
    shutil.rmtree(place, ignore_errors=True)
    (place / "corpus").mkdir(parents=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.run", "--libfuzzer", name),
        *(f"-runs={runs}", f"-seed={seed}", f"-max_len={target.longest}"),
        *("-len_control=0", "-detect_leaks=0", "-print_final_stats=1"),
        *(f"-timeout={SLOWEST_INPUT_SECONDS}", f"-rss_limit_mb={LARGEST_MIB}"),
        *(f"-artifact_prefix={place}/", str(place / "corpus"), str(CORPUS / name)),
    ]
    # The order of sets decides which way the fuzzer goes.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    log = (done.stdout + done.stderr).decode(errors="replace")
    (place / "log.txt").write_text(log, encoding="utf-8")
    findings = [
        {
            "file": str(path),
            "reproduce": shlex.join(
                ["python", "-m", "tests.fuzz.run", "--target", name, "--reproduce", str(path)]
            ),
        }
        for path in sorted(place.iterdir())
        if path.name.startswith(("crash-", "timeout-", "oom-", "slow-unit-", "leak-"))
    ]
    if done.returncode and not findings:
        findings = [{"file": str(place / "log.txt"), "reproduce": shlex.join(command)}]
    last, units = _DONE.search(log), _UNITS.search(log)
    return {
        "executions": int(units[1]) if units else 0,
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "edges": int(last[2]) if last else None,
        "features": int(last[3]) if last else None,
        "corpus": int(last[4]) if last else None,
        "findings": findings,
    }


def fuzz_all(names: list[str], *, runs: int, seed: int, jobs: int, out: Path) -> bool:
    """Fuzz the targets, write the report, and return whether every promise held."""
    shares = sum(TARGETS[name].share for name in names)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {
            name: pool.submit(
                fuzz_target, name, runs=-(-runs * TARGETS[name].share // shares), seed=seed, out=out
            )
            # The slow ones first, so that no processor waits for one of them at the end.
            for name in sorted(names, key=lambda name: TARGETS[name].share)
        }
        results = {name: running[name].result() for name in names}
    report = {
        "runs": runs,
        "seed": seed,
        "python": sys.version.split()[0],
        "atheris": importlib.metadata.version("atheris"),
        "executions": sum(result["executions"] for result in results.values()),
        "findings": sum(len(result["findings"]) for result in results.values()),
        "targets": results,
    }
    (out / "fuzz.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _show(report)
    short = [name for name, result in results.items() if not result["executions"]]
    return not report["findings"] and not short


def _show(report: dict[str, Any]) -> None:
    print(
        f"{'target':<12}{'executions':>11}{'seconds':>9}{'edges':>7}{'features':>10}{'corpus':>8}"
    )
    for name, result in report["targets"].items():
        row = (result["edges"], result["features"], result["corpus"])
        numbers = "".join(
            f"{value if value is not None else '-':>{w}}"
            for value, w in zip(row, (7, 10, 8), strict=True)
        )
        print(f"{name:<12}{result['executions']:>11}{result['seconds']:>9}{numbers}")
        for finding in result["findings"]:
            print(f"  FINDING {finding['file']}\n  {finding['reproduce']}")
    print(
        f"{report['executions']} executions, seed {report['seed']}: {report['findings']} findings"
    )


def main() -> None:
    """Run what the command line asks for."""
    if sys.argv[1:2] == ["--libfuzzer"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description="fuzz the entrances", allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=200_000, help="executions of all targets")
    parser.add_argument("--seed", type=int, default=1, help="1 or more; 0 would be a random one")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "out")
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    parser.add_argument("--reproduce", type=Path, metavar="FILE")
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    if options.reproduce:
        if len(names) != 1:
            parser.error("--reproduce needs one --target")
        importlib.import_module(f"tests.fuzz.targets.{names[0]}").run(
            options.reproduce.read_bytes()
        )
        print("every promise held")
        return
    if options.seed < 1:
        parser.error("--seed is 1 or more")
    held = fuzz_all(
        names, runs=options.runs, seed=options.seed, jobs=options.jobs, out=options.out.resolve()
    )
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
