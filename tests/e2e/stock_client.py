"""A client in Protocol Buffers that owes nothing to kodou but its .proto file: run by `test_protobuf.py`."""

import json
import math
import struct
import sys
import urllib.error
import urllib.request

import kodou_pb2 as kodou

url, token, session = sys.argv[1:]


def post(request, accept="application/x-protobuf"):
    headers = {
        "Authorization": "Bearer " + token,
        "Content-Type": "application/x-protobuf",
        "Accept": accept,
        "X-Session-ID": session,
    }
    asked = urllib.request.Request(url + "/environment/python/call", request.SerializeToString(), headers)
    try:
        with urllib.request.urlopen(asked) as reply:
            return reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as refused:
        return refused.headers["Content-Type"], refused.read()


def call(namepath, *args, **members):
    elements = [kodou.Element(name=name) for name in namepath.split(".")]
    media_type, body = post(kodou.CallRequest(namepath=elements, args=args, **members))
    return kodou.CallReply.FromString(body) if media_type == "application/x-protobuf" else json.loads(body)


def refused(*call_and_arguments, **members):
    """The problem document."""
    found = call(*call_and_arguments, **members)
    assert isinstance(found, dict), found
    return found


def answered(*call_and_arguments, **members):
    found = call(*call_and_arguments, **members)
    assert isinstance(found, kodou.CallReply), found
    return found


V = kodou.Value


def listed(*values):
    return V(list_value=kodou.List(values=values))


# Each kind of value goes in and comes out as it is.
array = kodou.NdArray(dtype="<f8", shape=[2, 2], data=struct.pack("<4d", 1, math.nan, math.inf, -0.0))
for value in (
    V(null_value=kodou.Null()),
    V(bool_value=True),
    V(int64_value=-(2**63)),
    V(int64_value=1),
    V(double_value=1.0),
    V(double_value=0.1),
    V(double_value=math.inf),
    V(uint64_value=2**64 - 1),
    V(integer_value=str(10**40)),
    V(string_value="$ref \u00e4 \U0001f600"),
    V(bytes_value=bytes(range(256))),
    listed(V(int64_value=1), V(double_value=2.0), listed()),
    V(map_value=kodou.Map(entries=[kodou.Entry(key="$file", value=V(string_value="f0"))])),
    V(map_value=kodou.Map(entries=[kodou.Entry(key=k, value=V(bytes_value=k.encode())) for k in "zab"])),
):
    reply = answered("copy.copy", value)
    assert reply.value == value, (reply, value)
assert math.isnan(answered("copy.copy", V(double_value=math.nan)).value.double_value)

# The function sees their types.
for value, name in ((V(int64_value=1), "int"), (V(double_value=1.0), "float"), (V(bytes_value=b"x"), "bytes")):
    request = kodou.CallRequest(
        namepath=[
            kodou.Element(module="builtins"),
            kodou.Element(name="type", arguments=kodou.Arguments(args=[value])),
            kodou.Element(name="__name__"),
        ]
    )
    assert kodou.CallReply.FromString(post(request)[1]).value.string_value == name

# Elements that are called, keyword arguments, output.
request = kodou.CallRequest(
    namepath=[
        kodou.Element(module="fractions"),
        kodou.Element(name="Fraction", arguments=kodou.Arguments(args=[V(int64_value=7), V(int64_value=4)])),
        kodou.Element(name="limit_denominator"),
    ],
    kwargs=[kodou.Entry(key="max_denominator", value=V(int64_value=1))],
)
reply = kodou.CallReply.FromString(post(request)[1])
assert (reply.value.string_value, reply.type) == ("2", "fractions.Fraction")
assert reply.ms > 0
assert json.loads(post(request, "application/json")[1])["value"] == "2"
assert answered("print", V(string_value="told")).stdout == "told\n"

# Kept objects.
kept = answered("collections.Counter", V(string_value="aab"), keep=True).value.ref_value
assert kept.type == "collections.Counter", kept
request = kodou.CallRequest(namepath=[kodou.Element(ref=kept.name), kodou.Element(name="total")], drop=[kept.name])
assert kodou.CallReply.FromString(post(request)[1]).value.int64_value == 3
gone = refused("len", V(ref_value=kodou.Reference(name=kept.name)))
assert gone["code"] == "reference_not_found", gone

# Failures.
failed = answered("math.sqrt", V(int64_value=-1)).error
assert (failed.code, failed.exception.type) == ("exception", "ValueError"), failed
late = answered("time.sleep", V(int64_value=60), timeout_ms=100)
assert (late.error.code, late.restarted) == ("timeout", True), late
assert refused("math.sqqrt")["code"] == "attribute_not_found"
assert refused("len", V())["field"] == "args[0]"

# Arrays, in binary.
assert answered("copy.copy", V(ndarray_value=array)).value.ndarray_value == array
flat = kodou.NdArray(dtype="<i8", shape=[3], data=struct.pack("<3q", 2, 4, 6))
assert answered("numpy.sum", V(ndarray_value=flat)).value.int64_value == 12
wrong = refused("numpy.sum", V(ndarray_value=kodou.NdArray(dtype="<i8", shape=[3])))
assert (wrong["code"], wrong["field"]) == ("invalid_request", "args[0]"), wrong
print("all of it")
