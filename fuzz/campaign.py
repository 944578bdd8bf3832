# What runs under atheris: `python -m fuzz.campaign TARGET [libFuzzer's flags and folders]`.
#
# A process of its own, since libFuzzer ends the process it runs in, and since only what is imported
# behind `Counting` tells the fuzzer which way it went.

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped] # it ships no types

from fuzz.counting import COUNTED, REACHED, Counting, hand_over

if __name__ == "__main__":
    sys.meta_path.insert(0, Counting(*COUNTED))
    from fuzz.playing import NOTED
    from fuzz.targets import TARGETS

    hand_over(REACHED, NOTED)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]].run, internal_libfuzzer=True)
    atheris.Fuzz()
