"""What the protocol refuses: requests by route, each with its status, its code and the position that the reply names."""

import json
from typing import Any, NamedTuple

import pytest

SETUP = "/environment/python/setup"
CALL = "/environment/python/call"
DESCRIBE = "/environment/python/describe"
COMPOSE = "/kompose"
INVALID = "invalid_request"
DEEP = json.loads("[" * 101 + "]" * 101)
MATH = "math.sqrt"


class Case(NamedTuple):
    """A request and what refuses it. `SESSION` in `body` stands for the session's id."""

    body: Any  # text as it is, anything else as JSON
    status: int
    code: str
    field: str | None = None


def called(**members: Any) -> dict[str, Any]:
    return {"namepath": "list", **members}


def entry(**members: Any) -> dict[str, Any]:
    return {"namepath": "abs", "tuple": [{"1": "int"}, members]}


# --- common rules ---

BODIES = {
    "no JSON": Case('{"sessionid": "SESSION", "namepath": }', 400, INVALID),
    "no object": Case([1], 422, INVALID),
    "a member twice": Case(
        '{"sessionid": "SESSION", "namepath": "list", "args": [{"a": 1, "a": 2}]}', 422, INVALID, "a"
    ),
    "a lone surrogate": Case('{"sessionid": "SESSION", "namepath": "list", "args": ["\\ud800"]}', 422, INVALID),
    "too deep": Case(called(args=DEEP), 422, INVALID),
    "an unknown member": Case(called(argz=[]), 422, INVALID, "argz"),
    "a session id that is no text": Case({"sessionid": 7, "namepath": "list"}, 422, INVALID, "sessionid"),
    "no session of mine": Case({"sessionid": "abc", "namepath": "list"}, 404, "session_not_found"),
    "a timeout of no time": Case(called(timeout=0), 422, INVALID, "timeout"),
    "a timeout in words": Case(called(timeout="soon"), 422, INVALID, "timeout"),
    "a timeout that is no number": Case(called(timeout=[5]), 422, INVALID, "timeout"),
    "a timeout before now": Case(called(timeout=-5), 422, INVALID, "timeout"),
    "a timeout that is a fraction in words": Case(called(timeout="1.5"), 422, INVALID, "timeout"),
    "a timeout of too many digits": Case(called(timeout="1" * 21), 422, INVALID, "timeout"),
    "a timeout that is null": Case(called(timeout=None), 422, INVALID, "timeout"),
    "a timeout that never comes": Case(
        '{"sessionid": "SESSION", "namepath": "list", "timeout": NaN}', 422, INVALID, "timeout"
    ),
}

# --- calls ---

CALLS = {
    "nothing to call": Case({}, 422, INVALID, "namepath"),
    "an empty namepath": Case({"namepath": []}, 422, INVALID, "namepath"),
    "a namepath that is a number": Case({"namepath": 7}, 422, INVALID, "namepath"),
    "a name with nothing between dots": Case({"namepath": "math..sqrt"}, 422, INVALID, "namepath"),
    "an element that is a number": Case({"namepath": ["math", 7]}, 422, INVALID, "namepath[1]"),
    "an element without a name": Case({"namepath": [{"args": []}]}, 422, INVALID, "namepath[0]"),
    "an element with two": Case({"namepath": [{"name": "a", "moduleName": "b"}]}, 422, INVALID, "namepath[0]"),
    "an unknown member of one": Case({"namepath": [{"name": "a", "arg": []}]}, 422, INVALID, "namepath[0].arg"),
    "a namepath that is null": Case({"namepath": None}, 422, INVALID, "namepath"),
    "a namepath that is an empty text": Case({"namepath": ""}, 422, INVALID, "namepath"),
    "a name that is a number": Case({"namepath": [{"name": 5}]}, 422, INVALID, "namepath[0].name"),
    "a name that is empty": Case({"namepath": ["math", {"name": ""}]}, 422, INVALID, "namepath[1].name"),
    "a module with nothing between dots": Case(
        {"namepath": [{"moduleName": "xml..etree"}]}, 422, INVALID, "namepath[0].moduleName"
    ),
    "a name and a reference": Case({"namepath": [{"ref": "r1", "name": "x"}]}, 422, INVALID, "namepath[0]"),
    "a list within the list": Case({"namepath": [["len"]]}, 422, INVALID, "namepath[0]"),
    "arguments that are null": Case(called(args=None), 422, INVALID, "args"),
    "keywords that are null": Case(called(kwargs=None), 422, INVALID, "kwargs"),
    "keywords of an element that are a list": Case(
        {"namepath": [{"name": "dict", "kwargs": []}, "keys"]}, 422, INVALID, "namepath[0].kwargs"
    ),
    "an argument of an element in both": Case(
        {"namepath": [{"name": "dict", "args": {"a": 1}, "kwargs": {"a": 1}}]}, 422, INVALID, "namepath[0].kwargs"
    ),
    "arguments that are a text": Case(called(args="4"), 422, INVALID, "args"),
    "keywords that are a list": Case(called(kwargs=[4]), 422, INVALID, "kwargs"),
    "an argument in both": Case(called(args={"a": 1}, kwargs={"a": 2}), 422, INVALID, "kwargs"),
    "arguments of an element": Case(
        {"namepath": ["math", {"name": "sqrt", "args": 1}]}, 422, INVALID, "namepath[1].args"
    ),
    "no such module": Case({"namepath": "no_such_module.f"}, 422, "name_not_found", "namepath[0]"),
    "no such submodule": Case({"namepath": "xml.etree.nothing"}, 422, "attribute_not_found", "namepath[2]"),
    "no such module within one": Case(
        {"namepath": [{"moduleName": "xml.nothing"}]}, 422, "name_not_found", "namepath[0]"
    ),
    "a builtin for a module": Case(
        {"namepath": [{"moduleName": "int.from_bytes"}]}, 422, "name_not_found", "namepath[0]"
    ),
    "what comes after a construction": Case(
        {"namepath": ["int", "__init__", "x"]}, 422, "attribute_not_found", "namepath[2]"
    ),
    "no such attribute": Case({"namepath": ["math", "pi", "x"]}, 422, "attribute_not_found", "namepath[2]"),
    "arguments for a value": Case({"namepath": "math.pi", "args": [1]}, 422, "not_callable", "args"),
    "keywords for a value": Case({"namepath": "math.pi", "kwargs": {"a": 1}}, 422, "not_callable", "kwargs"),
    "keywords in args for a value": Case({"namepath": "math.pi", "args": {"a": 1}}, 422, "not_callable", "args"),
    "typed ones for a value": Case({"namepath": "math.pi", "tuple": [{"1": "int"}]}, 422, "not_callable", "tuple"),
    "a value called on the way": Case(
        {"namepath": ["math", {"name": "pi", "args": []}, "real"]}, 422, "not_callable", "namepath[1]"
    ),
    "a last value with arguments of its own": Case(
        {"namepath": ["math", {"name": "pi", "args": [1]}]}, 422, "not_callable", "namepath[1]"
    ),
    "an image that was not sent": Case(called(args=[{"$image": "f", "type": "image/png"}]), 422, INVALID, "args[0]"),
    "a frame of another kind": Case(
        called(args=[{"$frame": "arrow", "columns": [], "data": []}]), 422, INVALID, "args[0].$frame"
    ),
    "a frame without its package": Case(
        called(kwargs={"a": {"$frame": "polars", "columns": [], "data": []}}), 422, INVALID, "kwargs.a"
    ),
    "bytes that are no base64": Case(called(args=[[{"$bytes": "?"}]]), 422, INVALID, "args[0][0]"),
    "a file that was not sent": Case(called(args=[{"$file": "f"}]), 422, INVALID, "args[0]"),
    "an array that was not sent": Case(
        called(kwargs={"a": {"$array": "f", "dtype": "<f8", "shape": [1]}}), 422, INVALID, "kwargs.a"
    ),
    "a reference to nothing": Case(called(args=[{"$ref": "r77"}]), 422, "reference_not_found", "args[0]"),
    "a reference to nothing, first": Case(
        {"namepath": [{"ref": "r77"}, "real"]}, 422, "reference_not_found", "namepath[0].ref"
    ),
    "a reference that is not first": Case({"namepath": ["math", {"ref": "r1"}]}, 422, INVALID, "namepath[1].ref"),
    "a reference that is a number": Case({"namepath": [{"ref": 1}]}, 422, INVALID, "namepath[0].ref"),
    "keep that is no truth": Case(called(keep="yes"), 422, INVALID, "keep"),
    "keep that is null": Case(called(keep=None), 422, INVALID, "keep"),
    "drop that is null": Case(called(drop=None), 422, INVALID, "drop"),
    "arguments of nothing": Case({"drop": [], "args": []}, 422, INVALID, "namepath"),
    "nothing to keep": Case({"drop": [], "keep": True}, 422, INVALID, "namepath"),
    "drop that is a name": Case(called(drop="r1"), 422, INVALID, "drop"),
    "drop of a number": Case(called(drop=[1]), 422, INVALID, "drop[0]"),
    "drop of nothing": Case(called(drop=["r77"]), 422, "reference_not_found", "drop[0]"),
}

# --- typed arguments ---

TUPLES = {
    "args beside it": Case(called(args=[], tuple=[]), 422, INVALID, "tuple"),
    "args beside it within an element": Case(
        {"namepath": [{"name": "list", "args": [], "tuple": []}]}, 422, INVALID, "namepath[0].tuple"
    ),
    "no list": Case(called(tuple={"1": "int"}), 422, INVALID, "tuple"),
    "null": Case(called(tuple=None), 422, INVALID, "tuple"),
    "a type with arguments": Case(
        entry(type=["functools", {"name": "partial", "args": []}], value=1), 422, INVALID, "tuple[1].type"
    ),
    "a reference to nothing": Case(
        entry(type="int", value=[{"$ref": "r77"}]), 422, "reference_not_found", "tuple[1].value[0]"
    ),
    "a reference to nothing in an array": Case(
        entry(type="int", array=[1, {"$ref": "r77"}]), 422, "reference_not_found", "tuple[1].array[1]"
    ),
    "an entry that is no object": Case(called(tuple=[1]), 422, INVALID, "tuple[0]"),
    "an empty entry": Case(entry(), 422, INVALID, "tuple[1]"),
    "two compact ones in one": Case(entry(a="int", b="int"), 422, INVALID, "tuple[1]"),
    "a type without a value": Case(entry(type="int"), 422, INVALID, "tuple[1]"),
    "a value and an array": Case(entry(type="int", value=1, array=[]), 422, INVALID, "tuple[1]"),
    "an unknown member": Case(entry(type="int", value=1, more=2), 422, INVALID, "tuple[1].more"),
    "an array that is none": Case(entry(type="int", array="12"), 422, INVALID, "tuple[1].array"),
    "a type that is a number": Case(entry(type=5, value=1), 422, INVALID, "tuple[1].type"),
    "a type that is empty": Case(entry(type=[], value=1), 422, INVALID, "tuple[1].type"),
    "no such type": Case(entry(type="no_such_module.T", value=1), 422, "name_not_found", "tuple[1].type"),
    "no such type in a module": Case(entry(type="math.T", value=1), 422, "attribute_not_found", "tuple[1].type"),
    "no such compact type": Case(entry(x=["math", "T"]), 422, "attribute_not_found", "tuple[1].type"),
    "a type that is a value": Case(entry(type="math.pi", value=1), 422, "not_callable", "tuple[1].type"),
    "within an element": Case(
        {"namepath": ["str", {"name": "upper", "tuple": [{"value": 1}]}]}, 422, INVALID, "namepath[1].tuple[0].type"
    ),
    "no such type within one": Case(
        {"namepath": ["fractions", {"name": "Fraction", "tuple": [{"1": "math.T"}]}, "numerator"]},
        422, "attribute_not_found", "namepath[1].tuple[0].type",
    ),
}  # fmt: skip

# --- compositions ---


def operation(**members: Any) -> dict[str, Any]:
    return {"listop": {"op": "map", "function": MATH, "list": [1], **members}}


COMPOSITIONS = {
    "none": Case({"args": []}, 422, INVALID, "pipeline"),
    "two": Case({"pipeline": ["list"], **operation()}, 422, INVALID, "listop"),
    "an unknown member": Case({"pipeline": ["list"], "stages": []}, 422, INVALID, "stages"),
    "a piped value": Case({"pipeline": ["list"], "piped": [1]}, 422, INVALID, "piped"),
    "no list": Case({"pipeline": "list"}, 422, INVALID, "pipeline"),
    "no stages": Case({"pipeline": []}, 422, INVALID, "pipeline"),
    "a stage that is a number": Case({"pipeline": ["list", 5]}, 422, INVALID, "pipeline[1]"),
    "a stage to nothing": Case({"pipeline": [["math", "nothing"]]}, 422, "attribute_not_found", "pipeline[0][1]"),
    "a first stage to nothing": Case({"pipeline": ["nothing.at_all"]}, 422, "name_not_found", "pipeline[0][0]"),
    "an empty stage": Case({"pipeline": ["list", [[]]]}, 422, INVALID, "pipeline[1][0]"),
    "a stage that is an empty object": Case({"pipeline": ["list", {}]}, 422, INVALID, "pipeline[1].op"),
    "an unknown member beside an operation": Case(
        {"pipeline": ["list", {"listop": {"op": "map", "function": MATH}, "x": 1}]}, 422, INVALID, "pipeline[1].x"
    ),
    "an unknown member beside one that is spread": Case(
        {"pipeline": ["list", {"listop": {"op": "map", "function": MATH, "parallel": 2}, "x": 1}]},
        422, INVALID, "pipeline[1].x",
    ),
    "an operation as a stage with a list of its own": Case(
        {"pipeline": ["list", {"op": "map", "function": MATH, "list": [1]}]}, 422, INVALID, "pipeline[1].list"
    ),
    "an operation as the first stage without a list": Case(
        {"pipeline": [{"op": "map", "function": MATH}]}, 422, INVALID, "pipeline[0].list"
    ),
    "arguments for a first stage that is a value": Case(
        {"args": [1], "pipeline": ["math.pi"]}, 422, "not_callable", "args"
    ),
    "a later stage that is a value": Case(
        {"args": [[1]], "pipeline": ["sum", "math.pi"]}, 422, "not_callable", "pipeline[1][1]"
    ),
    "a later pipe that begins with a value": Case(
        {"args": [[1]], "pipes": [{"pipeline": ["sum"]}, {"pipeline": ["math.pi"]}]},
        422, "not_callable", "pipes[1].pipeline[0][1]",
    ),
    "a session that is a number": Case({"session": 5, "pipeline": ["list"]}, 422, INVALID, "session"),
    "a pipe's session that is null": Case(
        {"pipes": [{"session": None, "pipeline": ["list"]}]}, 422, INVALID, "pipes[0].session"
    ),
    "no pipes": Case({"pipes": []}, 422, INVALID, "pipes"),
    "a pipe whose pipeline is a text": Case({"pipes": [{"pipeline": "list"}]}, 422, INVALID, "pipes[0].pipeline"),
    "a pipe's stage to nothing": Case(
        {"pipes": [{}, {"pipeline": ["list", ["math", "nothing"]]}]}, 422, "attribute_not_found", "pipes[1].pipeline[1][1]"
    ),
    "an element's arguments in a later pipe": Case(
        {"pipes": [{"pipeline": ["list"]}, {"pipeline": [["str", {"name": "x", "args": 5}]]}]},
        422, INVALID, "pipes[1].pipeline[0][1].args",
    ),
    "a reference to nothing, in pipes": Case(
        {"pipes": [{"pipeline": ["list"]}], "args": [{"$ref": "r77"}]}, 422, "reference_not_found", "args[0]"
    ),
    "drop of nothing, in pipes": Case(
        {"pipes": [{"pipeline": ["list"]}], "drop": ["r77"]}, 422, "reference_not_found", "drop[0]"
    ),
    "keep that is no truth, in pipes": Case({"pipes": [{"pipeline": ["list"]}], "keep": 1}, 422, INVALID, "keep"),
    "a timeout of no time, in pipes": Case({"pipes": [{"pipeline": ["list"]}], "timeout": 0}, 422, INVALID, "timeout"),
    "args and tuple, in pipes": Case(
        {"args": [], "tuple": [], "pipes": [{"pipeline": ["list"]}]}, 422, INVALID, "tuple"
    ),
    "args and tuple": Case({"args": [], "tuple": [], "pipeline": ["list"]}, 422, INVALID, "tuple"),
    "pipes that are no list": Case({"pipes": {}}, 422, INVALID, "pipes"),
    "pipes that are all empty": Case({"pipes": [{}, {}]}, 422, INVALID, "pipes"),
    "a pipe that is a text": Case({"pipes": [{}, "x"]}, 422, INVALID, "pipes[1]"),
    "a pipe without a pipeline": Case({"pipes": [{"session": "SESSION"}]}, 422, INVALID, "pipes[0].pipeline"),
    "an unknown member of a pipe": Case({"pipes": [{"pipeline": ["list"], "x": 1}]}, 422, INVALID, "pipes[0].x"),
    "an operation that is none": Case(operation(op="fold"), 422, INVALID, "listop.op"),
    "no operation": Case({"listop": {"function": MATH, "list": []}}, 422, INVALID, "listop.op"),
    "no function": Case({"listop": {"op": "map", "list": []}}, 422, INVALID, "listop.function"),
    "no list of items": Case({"listop": {"op": "map", "function": MATH}}, 422, INVALID, "listop.list"),
    "a list that is none": Case(operation(list=7), 422, INVALID, "listop.list"),
    "an unknown member of an operation": Case(operation(lists=[]), 422, INVALID, "listop.lists"),
    "an initial value of a map": Case(operation(initial=0), 422, INVALID, "listop.initial"),
    "an operation that is null": Case({"listop": None}, 422, INVALID, "listop"),
    "a function that is a number": Case(operation(function=5), 422, INVALID, "listop.function"),
    "a function that is a value": Case(operation(function="math.pi"), 422, "not_callable", "listop.function[1]"),
    "a function to nothing": Case(operation(function="math.x"), 422, "attribute_not_found", "listop.function[1]"),
    "a function to nothing, spread": Case(
        operation(function="math.x", list=[1, 2], parallel=2), 422, "attribute_not_found", "listop.function[1]"
    ),
    "a constructor to nothing": Case(
        operation(list=[1, ["math", "x"]]), 422, "attribute_not_found", "listop.list[1][1]"
    ),
    "a constructor to nothing, spread": Case(
        operation(list=[1, 2, ["math", "x"]], parallel=2), 422, "attribute_not_found", "listop.list[2][1]"
    ),
    "a constructor that is a value": Case(
        operation(list=[1, ["math", "pi"]]), 422, "not_callable", "listop.list[1][1]"
    ),
    "a constructor that is empty": Case(operation(list=[1, []]), 422, INVALID, "listop.list[1]"),
    "items of null and number": Case(operation(list=[1, None, ["int"]]), 422, INVALID, "listop.list[1]"),
    "items of several types, spread": Case(
        operation(list=[1, "2", ["int"]], parallel=2), 422, INVALID, "listop.list[1]"
    ),
    "arguments beside a list": Case({**operation(), "args": [[1]]}, 422, INVALID, "listop.list"),
    "keywords beside a list": Case({**operation(), "kwargs": {"a": 1}}, 422, INVALID, "kwargs"),
    "keywords beside a list, spread": Case(
        {**operation(list=[1, 2], parallel=2), "args": {"a": 1}}, 422, INVALID, "args"
    ),
    "parallel of one value": Case(operation(op="reduce", parallel=2), 422, INVALID, "listop.parallel"),
    "parallel that is a fraction": Case(operation(parallel=1.5), 422, INVALID, "listop.parallel"),
    "parallel that is null": Case(operation(parallel=None), 422, INVALID, "listop.parallel"),
    "items of several types": Case(operation(list=[1, "2", ["int"]]), 422, INVALID, "listop.list[1]"),
    "items of truth and number": Case(operation(list=[1, True, ["int"]]), 422, INVALID, "listop.list[1]"),
    "lists without a constructor": Case(operation(list=[[1], [2]]), 422, INVALID, "listop.list[1][0]"),
    "parallel of none": Case(operation(parallel=0), 422, INVALID, "listop.parallel"),
    "parallel of too many": Case(operation(parallel=1000), 422, INVALID, "listop.parallel"),
    "parallel that is no number": Case(operation(parallel="2"), 422, INVALID, "listop.parallel"),
    "parallel of what has an order": Case(operation(op="sort", parallel=2), 422, INVALID, "listop.parallel"),
    "a reference to several sandboxes": Case(
        operation(function=["math", {"name": "pow", "args": [{"$ref": "r1"}]}], parallel=2), 422, INVALID, "listop.function",
    ),
    "no session of mine": Case({"session": "abc", "pipeline": ["list"]}, 404, "session_not_found"),
}  # fmt: skip

# --- setups, from a lock above all ---

SETUPS = {
    "an unknown member": Case({"dependencys": []}, 422, INVALID, "dependencys"),
    "a member twice": Case('{"version": "3", "version": "3"}', 422, INVALID, "version"),
    "a version that is a number": Case({"version": 3}, 422, INVALID, "version"),
    "a version that nothing matches": Case({"version": "3.99"}, 422, "unknown_version", "version"),
    "a version that is a range": Case({"version": ">=3"}, 422, "unknown_version", "version"),
    "dependencies that are a text": Case({"dependencies": "numpy"}, 422, INVALID, "dependencies"),
    "a dependency that is a number": Case({"dependencies": ["six", 1]}, 422, INVALID, "dependencies[1]"),
    "an unknown resource": Case({"resources": {"memory": 64}}, 422, INVALID, "resources.memory"),
    "memory in words": Case({"resources": {"memory_mb": "256"}}, 422, INVALID, "resources.memory_mb"),
    "more memory than there may be": Case({"resources": {"memory_mb": 10**9}}, 422, INVALID, "resources.memory_mb"),
    "too little memory": Case({"resources": {"memory_mb": 1}}, 422, INVALID, "resources.memory_mb"),
    "no processor": Case({"resources": {"cpus": 0}}, 422, INVALID, "resources.cpus"),
    "more processors than there may be": Case({"resources": {"cpus": 10**6}}, 422, INVALID, "resources.cpus"),
    "more processes than there may be": Case({"resources": {"pids": 10**9}}, 422, INVALID, "resources.pids"),
    "more disk than there may be": Case({"resources": {"disk_mb": 10**9}}, 422, INVALID, "resources.disk_mb"),
    "another network": Case({"network": "all"}, 422, INVALID, "network"),
    "egress where there is none": Case({"network": "egress"}, 403, "forbidden"),
    "variables that are a list": Case({"env": ["A=1"]}, 422, INVALID, "env"),
    "a variable that is a number": Case({"env": {"A": 1}}, 422, INVALID, "env.A"),
    "a variable that is no name": Case({"env": {"1A": "x"}}, 422, INVALID, "env.1A"),
    "a variable with a NUL": Case({"env": {"A": "\0"}}, 422, INVALID, "env.A"),
    "no time to live": Case({"ttl": 0}, 422, INVALID, "ttl"),
    "more time to live than there may be": Case({"ttl": 10**12}, 422, INVALID, "ttl"),
    "a time to live that is a truth": Case({"ttl": True}, 422, INVALID, "ttl"),
    "refresh that is no truth": Case({"refresh": 1}, 422, INVALID, "refresh"),
    "a lock that is null": Case({"lock": None}, 422, INVALID, "lock"),
    "a lock that is a text": Case({"lock": "numpy"}, 422, INVALID, "lock"),
    "an empty lock": Case({"lock": {}}, 422, INVALID, "lock.version"),
    "a file for a dependency": Case(
        {"dependencies": ["six", "six-1.17.0-py3-none-any.whl"]}, 422, INVALID, "dependencies[1]"
    ),
}
PACKAGE = {"name": "x", "version": "1", "filename": "x-1-py3-none-any.whl", "sha256": "0" * 64}
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {  # in the lock, beside it; field
    "dependencies beside it": ({}, {"dependencies": ["numpy"]}, "lock"),
    "a version beside it": ({}, {"version": "3"}, "lock"),
    "another format": ({"version": 99}, {}, "lock.version"),
    "an unknown member": ({"options": []}, {}, "lock.options"),
    "packages that are none": ({"packages": ["numpy"]}, {}, "lock.packages[0]"),
    "another base": ({"base": f"sha256:{'0' * 64}"}, {}, "lock.base"),
    "another runner": ({"runner": "0.0.0+000000000000"}, {}, "lock.runner"),
    "one package more": ({"packages": [PACKAGE]}, {}, "lock.id"),
    "a path for a file": ({"packages": [{**PACKAGE, "filename": "../x"}]}, {}, "lock.packages[0].filename"),
    "a hash that is none": ({"packages": [{**PACKAGE, "sha256": "--index"}]}, {}, "lock.packages[0].sha256"),
}

DESCRIPTIONS = {
    "a call on the way": Case({"namepath": [{"name": "int", "args": []}]}, 422, INVALID, "namepath[0].args"),
    "no such module": Case({"namepath": "no_such_module"}, 422, "name_not_found", "namepath[0]"),
    "no such attribute": Case({"namepath": "math.x"}, 422, "attribute_not_found", "namepath[1]"),
    "an unknown member": Case({"name": "math"}, 422, INVALID, "name"),
}

TABLE = [
    pytest.param(path, case, id=f"{kind}: {name}")
    for kind, path, cases in (
        ("body", CALL, BODIES),
        ("call", CALL, CALLS),
        ("tuple", CALL, TUPLES),
        ("composition", COMPOSE, COMPOSITIONS),
        ("setup", SETUP, SETUPS),
        ("describe", DESCRIBE, DESCRIPTIONS),
    )
    for name, case in cases.items()
]
