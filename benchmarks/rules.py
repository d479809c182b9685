"""What every guidance rule makes of quickstart.yaml: time, and views of the object, for a page of the docs.

    python benchmarks/rules.py [--rules sds csd ...] [--prompts "a wooden barrel" ...] [--jobs 2]
    python benchmarks/rules.py --times [--rules sds csd ...]
    python benchmarks/rules.py --page

Runs `launch.py --config quickstart.yaml stages.coarse.guidance.type=<rule>` for each rule and prompt, one thread each and as many
beside each other as there are jobs, and keeps views of the exported asset in outputs/rules/. `--times` measures steps of each rule
with two threads on an otherwise idle machine, and what the whole command takes by them. Both write to benchmarks/results/rules.json.
`--page` makes docs/rules.md and its pictures of all that is there. What a person saw in the pictures stands in
benchmarks/results/rules_seen.json, and is copied into the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen import guidance, registry  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.runs.estimate import estimate  # noqa: E402
from threedgen.runs.folder import processor_name  # noqa: E402

RUNS, RESULTS = ROOT / "outputs" / "rules", ROOT / "benchmarks" / "results" / "rules.json"
SEEN, PAGE, IMAGES = ROOT / "benchmarks" / "results" / "rules_seen.json", ROOT / "docs" / "rules.md", ROOT / "docs" / "images"
PROMPTS = ("a wooden barrel", "a hamburger")
STAGE = "stages.coarse"
CELL, LABEL = 96, 14


def rules() -> list[str]:
    """Registered rules that need nothing but renderings."""
    guidance.discover()
    return [name for name in registry.names("guidance") if not getattr(registry.lookup("guidance", name), "needs", ())]


def strip_of(rule: str, prompt: str) -> Path:
    return RUNS / f"{rule}-{prompt.replace(' ', '_')}.png"


def words_of(rule: str, prompt: str) -> list[str]:
    return [f"prompt={prompt}", f"{STAGE}.guidance.type={rule}"]


def make(task: tuple[str, str]) -> str:
    """Run a rule on a prompt as a user would, and keep the views of its asset; one line on the outcome."""
    rule, prompt = task
    output = RUNS / "runs" / strip_of(rule, prompt).stem
    words = [*words_of(rule, prompt), "threads=1", f"output={output}"]
    command = [sys.executable, "launch.py", "--config", "quickstart.yaml", *words]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    strip_of(rule, prompt).unlink(missing_ok=True)
    if done.returncode:
        return f"{rule}, {prompt}: no asset ({(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]})"
    sheets = output.glob("quickstart/*/export/turntable.png")
    ring(max(sheets, key=lambda path: path.stat().st_mtime)).save(strip_of(rule, prompt))
    return f"{rule}, {prompt}: {time.monotonic() - started:.0f} s with one thread"


def ring(sheet: Path) -> Image.Image:
    """Every second of the eight views of a turntable's sheet, in a row."""
    image = Image.open(sheet).convert("RGB")
    width, height = image.width // 4, image.height // 2
    row = Image.new("RGB", (4 * width, height))
    for place, view in enumerate((0, 2, 4, 6)):
        row.paste(image.crop((view % 4 * width, view // 4 * height, (view % 4 + 1) * width, (view // 4 + 1) * height)), (place * width, 0))
    return row


def measure(rule: str) -> None:
    """Milliseconds of a step, and seconds of the whole command by them, with two threads."""
    settings = load("quickstart", [*words_of(rule, PROMPTS[0]), "threads=2"]).settings
    expected, steps = estimate(settings), settings.stages["coarse"].steps
    step_ms = 1000 * sum(seconds for part, seconds in expected.parts.items() if part.startswith("stage ")) / steps
    row = {"rule": rule, "steps": steps, "step_ms": round(step_ms, 1), "total_s": round(expected.seconds, 1)}
    known = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = sorted([other for other in known if other["rule"] != rule] + [row], key=lambda row: row["rule"])
    RESULTS.write_text(json.dumps({"processor": processor_name(), "rows": rows}, indent=1) + "\n")
    print(f"{rule:16} {steps:5d} steps {step_ms:7.0f} ms a step {expected.seconds:6.0f} s", flush=True)


def grid(prompt: str, names: list[str]) -> Image.Image:
    """Two columns of rules, each with its name above its four views."""
    columns, width = 2, 4 * CELL
    lines = -(-len(names) // columns)
    sheet = Image.new("RGB", (columns * width + (columns - 1) * LABEL, lines * (CELL + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, name in enumerate(names):
        x, y = (place // lines) * (width + LABEL), (place % lines) * (CELL + LABEL)
        draw.text((x + 3, y + 1), name, fill="black")
        if not strip_of(name, prompt).exists():
            continue
        strip = Image.open(strip_of(name, prompt))
        sheet.paste(strip.resize((width, CELL), Image.Resampling.LANCZOS), (x, y + LABEL))
    return sheet


def write_page() -> None:
    """docs/rules.md and its pictures from the stored results."""
    stored = json.loads(RESULTS.read_text())
    seen = json.loads(SEEN.read_text()) if SEEN.exists() else {}
    names = [row["rule"] for row in stored["rows"]]
    lines = ["# The rules, side by side", "", "<!-- generated by benchmarks/rules.py --page -->", ""]
    lines += [
        "Each guidance rule on the embedded prior, started with",
        '`python launch.py --config quickstart.yaml stages.coarse.guidance.type=<rule> prompt="..."`, seed 0, with the recipe of',
        "that rule in `configs/recipes/quickstart/`: four views of the exported asset. A gap means that no surface was found.",
        "",
    ]
    for prompt in PROMPTS:
        image = IMAGES / f"rules-{prompt.replace(' ', '_')}.png"
        grid(prompt, names).quantize(128).save(image, optimize=True)
        lines += [f"## {prompt}", "", f"![{prompt} by every rule](images/{image.name})", ""]
    lines += ["## Times and what is seen", ""]
    lines += [f"Two threads of an {stored['processor']}; the whole command by the steps measured, export included.", ""]
    lines += ["| rule | steps | ms a step | whole, s | seen |", "|---|---|---|---|---|"]
    for row in stored["rows"]:
        lines.append(f"| {row['rule']} | {row['steps']} | {row['step_ms']:.0f} | {row['total_s']:.0f} | {seen.get(row['rule'], '')} |")
    PAGE.write_text("\n".join(lines) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=rules())
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--jobs", type=int, default=2, help="runs beside each other, one thread each")
    parser.add_argument("--times", action="store_true", help="only measure times")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    if arguments.page:
        write_page()
    elif arguments.times:
        for rule in arguments.rules:
            measure(rule)
    else:
        RUNS.mkdir(parents=True, exist_ok=True)
        with ThreadPool(arguments.jobs) as pool:
            for line in pool.imap_unordered(make, [(rule, prompt) for rule in arguments.rules for prompt in arguments.prompts]):
                print(line, flush=True)


if __name__ == "__main__":
    main()
