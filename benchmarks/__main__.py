"""Runs all benchmarks: `python -m benchmarks`, or some of them by name; `--quick` only shows that they run."""

import argparse

from benchmarks import curve, long, many, network, overhead, parabola, sine
from benchmarks.measure import machine, show, write

TABLES = {
    "parabola": ("A parabola by Adam, 1,000 steps on 100 fresh points each", parabola.measure),
    "curve": ("Curves by least squares", curve.measure),
    "network": ("Networks by minibatches", network.measure),
    "many": ("Many fits at once", many.measure),
    "long": ("Long runs", long.measure),
    "overhead": ("What jaxfit itself costs", overhead.measure),
    "sine": ("Sine of a large array", sine.measure),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *TABLES], help="which tables; all where none is named")
    parser.add_argument("--quick", action="store_true", help="few repeats and small sizes: shows that they run")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    tables = {}
    for name in arguments.names or TABLES:
        title, measure = TABLES[name]
        rows, notes = measure(quick=arguments.quick)
        show(title, rows, notes)
        tables[name] = {"title": title, "rows": rows, "notes": notes}
    print(f"\nWritten to {write('quick' if arguments.quick else 'bench', tables)}")


if __name__ == "__main__":
    main()
