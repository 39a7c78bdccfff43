"""Measures kodou beside what its users would otherwise do. `make bench`, or `python -m benchmarks --help`.

`groups.py` says what is measured together, `measures.py` what the figures are called, `targets.py` what they are to be;
`subjects/` holds what is measured, `peers/` what runs in environments of its own. A module that measures something longer by
itself writes `Results` as JSON, with its text in `sections` under a name that docs/performance.md has a mark for; then `--from`
takes in both.
"""
