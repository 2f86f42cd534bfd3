"""Stores what torch computes for every parity case: `python tests/make_reference.py`, with torch installed."""

import numpy as np

from reference import DATA, GROUPS, cases


def main():
    for group in GROUPS:
        arrays = {}
        for case, compute in cases(group).items():
            for name, array in compute().items():
                arrays[f"{case}/{name}"] = np.asarray(array)
        np.savez_compressed(DATA / f"torch_{group}.npz", **arrays)
        print(f"{group}: {len(arrays)} arrays")


if __name__ == "__main__":
    main()
