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
    "arguments that are a text": Case(called(args="4"), 422, INVALID, "args"),
    "keywords that are a list": Case(called(kwargs=[4]), 422, INVALID, "kwargs"),
    "an argument in both": Case(called(args={"a": 1}, kwargs={"a": 2}), 422, INVALID, "kwargs"),
    "arguments of an element": Case(
        {"namepath": ["math", {"name": "sqrt", "args": 1}]}, 422, INVALID, "namepath[1].args"
    ),
    "no such module": Case({"namepath": "no_such_module.f"}, 422, "name_not_found", "namepath[0]"),
    "no such attribute": Case({"namepath": ["math", "pi", "x"]}, 422, "attribute_not_found", "namepath[2]"),
    "arguments for a value": Case({"namepath": "math.pi", "args": [1]}, 422, "not_callable", "args"),
    "keywords for a value": Case({"namepath": "math.pi", "kwargs": {"a": 1}}, 422, "not_callable", "kwargs"),
    "keywords in args for a value": Case({"namepath": "math.pi", "args": {"a": 1}}, 422, "not_callable", "args"),
    "typed ones for a value": Case({"namepath": "math.pi", "tuple": [{"1": "int"}]}, 422, "not_callable", "tuple"),
    "a value called on the way": Case(
        {"namepath": ["math", {"name": "pi", "args": []}, "real"]}, 422, "not_callable", "namepath[1]"
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
    "nothing to keep": Case({"drop": [], "keep": True}, 422, INVALID, "namepath"),
    "drop that is a name": Case(called(drop="r1"), 422, INVALID, "drop"),
    "drop of a number": Case(called(drop=[1]), 422, INVALID, "drop[0]"),
    "drop of nothing": Case(called(drop=["r77"]), 422, "reference_not_found", "drop[0]"),
}

# --- typed arguments ---

TUPLES = {
    "args beside it": Case(called(args=[], tuple=[]), 422, INVALID, "tuple"),
    "no list": Case(called(tuple={"1": "int"}), 422, INVALID, "tuple"),
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
