"""Twenty packages of the index, of all kinds, each with one call and its right answer."""

import base64
from typing import Any, NamedTuple


class Package(NamedTuple):
    dependency: str
    namepath: list[Any]
    args: list[Any]
    value: Any


def _bytes(data: bytes) -> dict[str, str]:
    return {"$bytes": base64.b64encode(data).decode()}


PACKAGES = [
    # compiled
    Package("numpy", ["numpy", {"name": "array", "args": [[2, 4, 6]]}, "sum"], [], 12),
    Package("scipy", ["scipy", "special", "comb"], [5, 2], 10.0),
    Package("pandas", ["pandas", {"name": "Series", "args": [[1, 2, 3]]}, "sum"], [], 6),
    Package("polars", ["polars", {"name": "Series", "args": [[1, 2, 3]]}, "mean"], [], 2.0),
    Package("pillow", [{"moduleName": "PIL.Image"}, {"name": "new", "args": ["RGB", [2, 3]]}, "size"], [], [2, 3]),
    Package("lxml", [{"moduleName": "lxml.etree"}, {"name": "fromstring", "args": ["<a><b/></a>"]}, "tag"], [], "a"),
    Package(
        "cryptography", ["cryptography.hazmat.primitives.hashes", {"name": "SHA256", "args": []}, "digest_size"], [], 32
    ),
    Package("shapely", ["shapely.geometry", {"name": "box", "args": [0, 0, 2, 3]}, "area"], [], 6.0),
    Package("orjson", ["orjson", "dumps"], [{"a": 1}], _bytes(b'{"a":1}')),
    Package("msgpack", ["msgpack", "packb"], [[1, 2]], _bytes(b"\x92\x01\x02")),
    Package("rapidfuzz", ["rapidfuzz.distance.Levenshtein", "distance"], ["kitten", "sitting"], 3),
    Package("regex", ["regex", "findall"], [r"\p{Lu}\w+", "Ada met Bob"], ["Ada", "Bob"]),
    # pure Python
    Package("requests", ["requests.utils", "unquote"], ["a%20b"], "a b"),
    Package(
        "Jinja2",
        ["jinja2", {"name": "Template", "args": ["hi {{ n }}"]}, {"name": "render", "kwargs": {"n": "x"}}],
        [],
        "hi x",
    ),
    Package("sympy", ["sympy", "factorint"], [360], {"2": 3, "3": 2, "5": 1}),
    Package("networkx", ["networkx", {"name": "path_graph", "args": [4]}, "number_of_edges"], [], 3),
    Package("python-dateutil", ["dateutil.parser", "parse"], ["29 Feb 2024"], "2024-02-29T00:00:00"),
    Package("python-slugify[unidecode]", ["slugify.slugify"], ["Crème Brûlée"], "creme-brulee"),
    Package("humanize>=4", ["humanize.intcomma"], [1234567], "1,234,567"),
    # published as source only: built by its own setup.py, in a sandbox
    Package("docopt==0.6.2", ["docopt.docopt"], ["Usage: ship <name>", ["Titanic"]], {"<name>": "Titanic"}),
]
