# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The kernel of the codec in C: what `codec_python` does, faster, and nothing else.

It knows the terms that messages are made of. Whatever is odd (bytes that are wrong, an error to be worded, a fun, a map
inside a map key, 300 containers in one another) it leaves to the Python codec, from the start of the term: so both give
the same terms, the same bytes and the same errors, at worst for one more pass over the bytes at the speed of C. How
failures travel until then: see `_kernel.pxd`.

- `_kernel_tables.pxi`: where the classes of terms keep their members; the names and pids seen lately.
- `_kernel_read.pxi`, `_kernel_write.pxi`: a `Reader` makes terms, a `Writer` takes them.
"""

import sys

from libc.math cimport isfinite
from libc.string cimport memcmp, memcpy

from beamnode.etf._capi cimport *

from beamnode.etf import codec_python, terms, whole
from beamnode.etf.keys import HashableDict, HashableList
from beamnode.limits import DEFAULT_LIMITS

__all__ = ["decode", "decode_from", "encode", "encode_chunks", "encode_into"]


cdef enum:  # see tags.py
    VERSION = 131
    NEW_FLOAT_EXT = 70
    BIT_BINARY_EXT = 77
    COMPRESSED = 80
    ATOM_CACHE_REF = 82
    NEW_PID_EXT = 88
    NEW_PORT_EXT = 89
    NEWER_REFERENCE_EXT = 90
    SMALL_INTEGER_EXT = 97
    INTEGER_EXT = 98
    ATOM_EXT = 100
    SMALL_TUPLE_EXT = 104
    LARGE_TUPLE_EXT = 105
    NIL_EXT = 106
    STRING_EXT = 107
    LIST_EXT = 108
    BINARY_EXT = 109
    SMALL_BIG_EXT = 110
    LARGE_BIG_EXT = 111
    EXPORT_EXT = 113
    MAP_EXT = 116
    ATOM_UTF8_EXT = 118
    SMALL_ATOM_UTF8_EXT = 119
    V4_PORT_EXT = 120

    REFERENCE_WORDS_MAX = 5
    EQUAL_HASHES_MAX = 128  # as in `keys`
    LONG_BYTES_MIN = 262144
    HEADER_ATOMS_MAX = 255
    ATOM_CHARACTERS_MAX = 255
    # Reading and writing recurse: about 150 bytes of C stack a container, on threads that may have 256 KiB in all.
    # What is nested deeper is for the Python codec, which has a stack of its own.
    DEPTH_MAX = 256
    HANDED_MIN = 65536

cdef Py_ssize_t UINT32_MAX = 0xFFFFFFFF
cdef long long HASH_MODULUS = sys.hash_info.modulus

include "_kernel_tables.pxi"
include "_kernel_read.pxi"
include "_kernel_write.pxi"


cdef int failed() except -1:
    if PyErr_Occurred() != NULL:
        if not PyErr_ExceptionMatches(PyExc_Exception):
            return -1
        PyErr_Clear()
    return 0


# --- Decoding ---------------------------------------------------------------------------------------------------------


cdef PyObject *_decode(const unsigned char *data, Py_ssize_t *offset, Py_ssize_t end, atoms, bint strings, limits) noexcept:
    """The term at `offset`, which moves past it; NULL: leave it to the Python codec."""
    cdef Reader r
    cdef PyObject *term
    if offset[0] < 0 or offset[0] > end or (type(atoms) is not tuple and type(atoms) is not list):
        return NULL
    if reader_init(&r, data + offset[0], end - offset[0], <PyObject *>atoms, strings, limits) < 0:
        return NULL
    term = read_term(&r)
    if term != NULL:
        offset[0] = r.pos - data
    return term


cdef object decode_term(const unsigned char *data, Py_ssize_t *offset, Py_ssize_t end, object atoms, bint strings, object limits):
    cdef PyObject *term = _decode(data, offset, end, atoms, strings, limits)
    if term != NULL:
        made = <object>term
        Py_DECREF(term)
        return made
    failed()
    view = <object>PyMemoryView_FromMemory(<char *>data, end, PyBUF_READ)
    try:
        made, offset[0] = codec_python.decode_from(view, offset[0], atoms, strings=strings, limits=limits)
    finally:
        view.release()  # the traceback of an error may hold it longer than the caller holds the memory
    return made


def decode_from(data, Py_ssize_t offset, atoms=(), *, bint strings=False, limits=DEFAULT_LIMITS):
    """The term that begins at `offset` (without version byte), and the offset after it.

    `atoms` are those of the distribution header, which ATOM_CACHE_REF indexes: `Atom`s, or what they stand for
    (`True`, `False`, `None`) already. With `strings`, binaries that are valid UTF-8 become `str`. Every payload is
    copied once, so the term does not keep `data` alive. Raises `DecodeError`.
    """
    cdef Py_buffer view
    cdef PyObject *term = NULL
    cdef Py_ssize_t after = offset
    if type(data) is bytes:
        term = _decode(<unsigned char *>PyBytes_AS_STRING(<PyObject *>data), &after, PyBytes_GET_SIZE(<PyObject *>data), atoms, strings, limits)
    elif PyObject_GetBuffer(<PyObject *>data, &view, PyBUF_SIMPLE) == 0:
        term = _decode(<unsigned char *>view.buf, &after, view.len, atoms, strings, limits)
        PyBuffer_Release(&view)
    if term == NULL:
        failed()
        return codec_python.decode_from(data, offset, atoms, strings=strings, limits=limits)
    made = <object>term
    Py_DECREF(term)
    return made, after


def decode(data, *, bint strings=False, limits=DEFAULT_LIMITS):
    """The one term that `data` is, version byte first, as `binary_to_term`, but nothing may follow the term.

    With `strings`, binaries that are valid UTF-8 become `str`. Raises `DecodeError`.
    """
    cdef Py_buffer view
    cdef PyObject *term = NULL
    if type(data) is bytes:
        term = _decode_whole(<unsigned char *>PyBytes_AS_STRING(<PyObject *>data), PyBytes_GET_SIZE(<PyObject *>data), strings, limits)
    elif type(data) is bytearray and PyObject_GetBuffer(<PyObject *>data, &view, PyBUF_SIMPLE) == 0:
        term = _decode_whole(<unsigned char *>view.buf, view.len, strings, limits)
        PyBuffer_Release(&view)
    if term == NULL:
        failed()
        return whole.decode(decode_from, data, strings, limits)
    made = <object>term
    Py_DECREF(term)
    return made


cdef PyObject *_decode_whole(const unsigned char *data, Py_ssize_t size, bint strings, limits) noexcept:
    cdef Py_ssize_t offset = 1
    cdef PyObject *term
    if size < 2 or data[0] != VERSION or data[1] == COMPRESSED:
        return NULL
    term = _decode(data, &offset, size, (), strings, limits)
    if term != NULL and offset != size:
        Py_DECREF(term)
        return NULL
    return term


# --- Encoding ---------------------------------------------------------------------------------------------------------


cdef int encode_term(Writer *w, object term) except -1:
    cdef Mark mark = writer_mark(w)
    if write_term(w, <PyObject *>term) == 0:
        return 0
    writer_rewind(w, mark)
    atoms = None if w.atoms == NULL else <object>w.atoms
    if w.hands_out:
        chunks = codec_python.encode_chunks(term, atoms)[0]
    else:
        chunks = [bytearray()]
        codec_python.encode_into(chunks[0], term, atoms)
    for chunk in chunks:
        if _write_chunk(w, <PyObject *>chunk) < 0:
            writer_rewind(w, mark)
            raise MemoryError
    return 0


def encode_into(out, term, atoms=None):
    """Append `term` to `out`, without the version byte.

    `atoms` is the atom table of a distribution header, atom -> index: an atom in it, or one that still finds room
    (it is added), is written as a reference to it. After an `EncodeError` both are as they were before.
    """
    cdef Writer w
    cdef Mark mark
    if type(out) is bytearray and (atoms is None or type(atoms) is dict):
        # Handed out, big binaries are not held twice before they are in `out`.
        writer_init(&w, NULL if atoms is None else <PyObject *>atoms, True)
        mark = writer_mark(&w)
        if write_term(&w, <PyObject *>term) == 0 and writer_append_to(&w, <PyObject *>out) == 0:
            writer_free(&w)
            return
        writer_rewind(&w, mark)
        writer_free(&w)
    codec_python.encode_into(out, term, atoms)


def encode_chunks(term, atoms=None):
    """The bytes of `term`, without the version byte, in pieces to be written in order, and how many they are in all.

    Each `bytes` in it of 64 KiB or more is a piece of its own: the very object, not a copy. `atoms` as `encode_into`.
    """
    cdef Writer w
    cdef Mark mark
    if atoms is None or type(atoms) is dict:
        writer_init(&w, NULL if atoms is None else <PyObject *>atoms, True)
        mark = writer_mark(&w)
        if write_term(&w, <PyObject *>term) == 0:
            try:
                return writer_chunks(&w), w.pos - w.start + w.handed_bytes
            finally:
                writer_free(&w)
        writer_rewind(&w, mark)
        writer_free(&w)
    return codec_python.encode_chunks(term, atoms)


def encode(term, *, bint compressed=False):
    """The bytes of `term`, version byte first, as `term_to_binary`. Raises `EncodeError`.

    With `compressed`, its zlib form where that is shorter; OTP does so for files and tables, never between nodes.
    """
    cdef Writer w
    cdef PyObject *data = NULL
    if not compressed:
        writer_init(&w, NULL, False)
        w.pos[0] = VERSION
        w.pos += 1
        if write_term(&w, <PyObject *>term) == 0:
            data = writer_bytes(&w)
        writer_free(&w)
        if data != NULL:
            made = <object>data
            Py_DECREF(data)
            return made
        failed()
    return whole.encode(encode_into, term, compressed)
