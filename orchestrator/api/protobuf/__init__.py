"""Calls in Protocol Buffers: `proto/kodou/v1/kodou.proto`. `kodou_pb2` is made of that file by `scripts/proto`."""

MEDIA_TYPE = b"application/x-protobuf"

# Messages inside messages: as deep as parsers of all languages go.
MAX_DEPTH = 100
# What is larger is worked on in a thread.
LARGE_BYTES = 4 * 1024
