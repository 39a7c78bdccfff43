# Made by scripts/proto from proto/kodou/v1/kodou.proto.
# mypy: disable-error-code=type-arg
# ruff: noqa
# fmt: off
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("sessionid", "timeout_ms", "namepath", "args", "kwargs", "keep", "drop")
    SESSIONID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    NAMEPATH_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    sessionid: str
    timeout_ms: int
    namepath: _containers.RepeatedCompositeFieldContainer[Element]
    args: _containers.RepeatedCompositeFieldContainer[Value]
    kwargs: _containers.RepeatedCompositeFieldContainer[Entry]
    keep: bool
    drop: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sessionid: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., namepath: _Optional[_Iterable[_Union[Element, _Mapping]]] = ..., args: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., kwargs: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., keep: _Optional[bool] = ..., drop: _Optional[_Iterable[str]] = ...) -> None: ...

class Element(_message.Message):
    __slots__ = ("name", "module", "ref", "arguments")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODULE_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    module: str
    ref: str
    arguments: Arguments
    def __init__(self, name: _Optional[str] = ..., module: _Optional[str] = ..., ref: _Optional[str] = ..., arguments: _Optional[_Union[Arguments, _Mapping]] = ...) -> None: ...

class Arguments(_message.Message):
    __slots__ = ("args", "kwargs")
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedCompositeFieldContainer[Value]
    kwargs: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, args: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., kwargs: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("null_value", "bool_value", "int64_value", "uint64_value", "double_value", "string_value", "bytes_value", "list_value", "map_value", "ndarray_value", "integer_value", "ref_value", "frame_value", "image_value")
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    UINT64_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    BYTES_VALUE_FIELD_NUMBER: _ClassVar[int]
    LIST_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAP_VALUE_FIELD_NUMBER: _ClassVar[int]
    NDARRAY_VALUE_FIELD_NUMBER: _ClassVar[int]
    INTEGER_VALUE_FIELD_NUMBER: _ClassVar[int]
    REF_VALUE_FIELD_NUMBER: _ClassVar[int]
    FRAME_VALUE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_VALUE_FIELD_NUMBER: _ClassVar[int]
    null_value: Null
    bool_value: bool
    int64_value: int
    uint64_value: int
    double_value: float
    string_value: str
    bytes_value: bytes
    list_value: List
    map_value: Map
    ndarray_value: NdArray
    integer_value: str
    ref_value: Reference
    frame_value: Frame
    image_value: Image
    def __init__(self, null_value: _Optional[_Union[Null, _Mapping]] = ..., bool_value: _Optional[bool] = ..., int64_value: _Optional[int] = ..., uint64_value: _Optional[int] = ..., double_value: _Optional[float] = ..., string_value: _Optional[str] = ..., bytes_value: _Optional[bytes] = ..., list_value: _Optional[_Union[List, _Mapping]] = ..., map_value: _Optional[_Union[Map, _Mapping]] = ..., ndarray_value: _Optional[_Union[NdArray, _Mapping]] = ..., integer_value: _Optional[str] = ..., ref_value: _Optional[_Union[Reference, _Mapping]] = ..., frame_value: _Optional[_Union[Frame, _Mapping]] = ..., image_value: _Optional[_Union[Image, _Mapping]] = ...) -> None: ...

class Null(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class List(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Map(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: Value
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Value, _Mapping]] = ...) -> None: ...

class NdArray(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Reference(_message.Message):
    __slots__ = ("name", "type", "repr")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REPR_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    repr: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., repr: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("library", "columns", "index", "data")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    library: str
    columns: _containers.RepeatedCompositeFieldContainer[Value]
    index: Value
    data: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, library: _Optional[str] = ..., columns: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., index: _Optional[_Union[Value, _Mapping]] = ..., data: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("media_type", "data")
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    media_type: str
    data: bytes
    def __init__(self, media_type: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("value", "error", "stdout", "stderr", "truncated", "type", "ms", "restarted")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    value: Value
    error: Error
    stdout: str
    stderr: str
    truncated: bool
    type: str
    ms: float
    restarted: bool
    def __init__(self, value: _Optional[_Union[Value, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., stdout: _Optional[str] = ..., stderr: _Optional[str] = ..., truncated: _Optional[bool] = ..., type: _Optional[str] = ..., ms: _Optional[float] = ..., restarted: _Optional[bool] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "detail", "exception", "field", "type", "repr", "exit_code", "signal", "pipe", "stage", "item")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REPR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    exception: Exception
    field: str
    type: str
    repr: str
    exit_code: int
    signal: int
    pipe: int
    stage: int
    item: int
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., exception: _Optional[_Union[Exception, _Mapping]] = ..., field: _Optional[str] = ..., type: _Optional[str] = ..., repr: _Optional[str] = ..., exit_code: _Optional[int] = ..., signal: _Optional[int] = ..., pipe: _Optional[int] = ..., stage: _Optional[int] = ..., item: _Optional[int] = ...) -> None: ...

class Exception(_message.Message):
    __slots__ = ("type", "message", "traceback")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    traceback: str
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...
