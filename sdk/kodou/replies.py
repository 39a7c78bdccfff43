"""Replies to calls, with their values as Python's: out of JSON, or of a form with files beside it."""

from __future__ import annotations

from dataclasses import replace

from kodou import multipart
from kodou.libraries import installed
from kodou.messages import JSON, Reply, Response
from kodou.protocol import checked, read_body, read_reply
from kodou.values import Values


def accepted() -> str:
    """The forms that are wanted: with files where their arrays can be made, and else as plain lists."""
    return f"{multipart.MEDIA_TYPE}, {JSON};q=0.5" if installed("numpy") else JSON


def read_value(response: Response) -> Reply:
    """As `protocol.read_call`, with tags turned into bytes, arrays, frames and images."""
    members = checked(read_body(response), response)
    reply = read_reply(members, response.headers, response.status)
    return replace(reply, value=Values(response.files).decode(reply.value))
