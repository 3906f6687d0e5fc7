# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The halves of a channel in C: what `inbound.py` and `outbound.py` do, faster, and nothing else.

They know the frames that a connection mostly carries: messages to a pid, a name or an alias, and the monitors that come
with every call, behind a distribution header with the atom cache. Whatever is odd or rare they leave to the Python
halves, frame by frame or record by record, with which they share the atom caches: so the results, the bytes and the
errors are the same.

- `_kernel_fragments.pxi`: large messages that come in pieces.
- `_kernel_in.pxi`: `AtomCacheIn`, `Inbound`. A message goes from the bytes that were received into a mailbox without
  anything made but its term; only a frame that is still arriving is copied.
- `_kernel_out.pxi`: `Outbound`. A message is encoded into one buffer behind those that already wait; binaries of 64 KiB
  and more are handed out as they are.
"""

from cython cimport final
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.long cimport PyLong_AsLong
from cpython.object cimport PyObject
from libc.string cimport memcmp, memcpy, memset

from beamnode.etf._capi cimport (
    _PyBytes_Resize,
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyBytes_AS_STRING,
    PyBytes_FromStringAndSize,
    PyBytes_GET_SIZE,
    PyDict_GetItemWithError,
    PyDict_Next,
    PyDict_Size,
    PyMem_Free,
    PyMem_Realloc,
    PyObject_GetBuffer,
    PyTypeObject,
    Py_buffer,
    Py_DECREF,
    Py_INCREF,
    Py_TYPE,
    Py_XDECREF,
    bn_load16,
    bn_load32,
    bn_load64,
    bn_store32,
    uint32_t,
)
from beamnode.etf._kernel cimport (
    Reader,
    Writer,
    encode_term,
    failed,
    read_reference,
    read_term,
    reader_has_bigs,
    reader_init,
    write_atom,
    write_pid,
    write_reference,
    writer_chunks,
    writer_free,
    writer_init,
)

from beamnode.errors import LimitExceeded, ProtocolError
from beamnode.etf import terms
from beamnode.wire import inbound, outbound
from beamnode.wire.control import NO_PAYLOAD, AliasSend, RegSend, Send, carries_payload, from_wire
from beamnode.wire.flags import Flag
from beamnode.wire.header import AtomCacheOut

__all__ = ["AtomCacheIn", "Inbound", "Outbound"]


cdef enum:
    VERSION = 131
    NORMAL_HEADER = 68
    LENGTH_BYTES = 4

    ATOM_CACHE_REF = 82
    NEW_FLOAT_EXT = 70
    NEW_PID_EXT = 88
    NEWER_REFERENCE_EXT = 90
    SMALL_INTEGER_EXT = 97
    INTEGER_EXT = 98
    SMALL_TUPLE_EXT = 104
    LARGE_TUPLE_EXT = 105
    NIL_EXT = 106
    STRING_EXT = 107
    LIST_EXT = 108
    BINARY_EXT = 109
    SMALL_BIG_EXT = 110
    MAP_EXT = 116
    ATOM_UTF8_EXT = 118
    SMALL_ATOM_UTF8_EXT = 119

    REG_SEND = 6
    MONITOR_P = 19
    DEMONITOR_P = 20
    SEND_SENDER = 22
    ALIAS_SEND = 33
    ALTACT_SIG_SEND = 37
    ALTACT_ALIAS = 4  # the flags of an ALTACT_SIG_SEND that is a message to an alias and nothing else

    PID_BYTES = 15  # NEW_PID_EXT whose node is an ATOM_CACHE_REF

cdef PyTypeObject *ATOM = <PyTypeObject *>terms.Atom
cdef PyTypeObject *PID = <PyTypeObject *>terms.Pid
cdef PyTypeObject *REFERENCE = <PyTypeObject *>terms.Reference

cdef object NOTHING = object()

# The C library gives memory that was freed back to the system above a threshold, and learns from what is freed how high
# that has to be. Without this lesson (8 MiB, never touched) it gives back and takes anew the memory of each binary of
# 1 MiB, whose pages the system then has to clear: 90 us a binary, more than all else about it.
PyMem_Free(PyMem_Realloc(NULL, 8 << 20))

include "_kernel_fragments.pxi"
include "_kernel_in.pxi"
include "_kernel_out.pxi"
