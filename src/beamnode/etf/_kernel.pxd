# What other Cython modules may `cimport` of the kernel. Two structs, a read cursor and a write buffer, both meant to lie
# on the C stack, and what reads and writes terms with them.
#
# All functions but `decode_term` and `encode_term` deal in bare references and never raise. A failure is NULL or -1 and
# means "not here": the bytes are wrong, or the term is one that only the Python codec knows, or an exception is set that
# it would meet too. The caller then gives up, frees what it holds, clears the exception (`failed`) and lets the Python
# codec do the whole, which makes the term or raises the right error. So there is one place that words errors.
#
# The GIL is held all along. Writing runs no Python code at all (so borrowed references are safe: nobody else runs).
# Reading may: to make an atom that is not known yet, to hash a key, when something old is let go. It holds no borrowed
# reference then; the memory that a Reader points into has to be kept by the caller (a buffer or a reference to bytes).

from beamnode.etf._capi cimport PyObject


cdef struct Bounds:  # those of `Limits` that a term meets
    Py_ssize_t depth
    Py_ssize_t elements
    Py_ssize_t atom_characters
    Py_ssize_t integer_bytes


cdef struct Reader:
    const unsigned char *pos  # always <= end
    const unsigned char *end
    Py_ssize_t room           # elements that containers may still have: at least one byte each, so it bounds memory too
    PyObject *atoms           # borrowed: the header's atoms, a tuple or list, or NULL
    bint strings              # binaries that are valid UTF-8 become str
    const unsigned char *data # where it began
    PyObject *big_places      # see `reader_has_bigs`; NULL where there are none (any more)
    PyObject *bigs
    Py_ssize_t big_next
    Py_ssize_t big_at         # the place of the next one; -1: there is none
    Bounds bounds


cdef struct Handed:           # a big binary that is not copied: it stands before byte `at` of what is copied
    Py_ssize_t at
    PyObject *binary


cdef struct Writer:
    unsigned char *start
    unsigned char *pos
    unsigned char *end
    PyObject *heap            # the bytes object that `start` points into; NULL while that is `scratch`
    PyObject *atoms           # borrowed: the header's table, a dict of Atom -> index that grows, or NULL
    bint hands_out            # bytes objects of 64 KiB and more are handed out rather than copied
    Py_ssize_t handed_count
    Py_ssize_t handed_bytes
    Handed *handed
    unsigned char scratch[1024]


cdef struct Mark:             # how far a Writer is
    Py_ssize_t used
    Py_ssize_t handed_count
    Py_ssize_t atoms_known


# --- Reading ---

# Prepare `r` for `size` bytes at `data`. `atoms`, if not NULL, is a tuple or a list. -1: `limits` is not as it should be.
cdef int reader_init(Reader *r, const unsigned char *data, Py_ssize_t size, PyObject *atoms, bint strings, object limits) noexcept

# Big binaries whose bytes are not behind their heads, but are these objects: two lists of as many, where in the data
# their tags are (numbers that grow), and bytes. Both borrowed.
cdef void reader_has_bigs(Reader *r, PyObject *places, PyObject *bigs) noexcept

# One term at the cursor, a new reference. `room` goes down, so a second term shares it with the first.
cdef PyObject *read_term(Reader *r) noexcept

# An atom by name or header reference where nothing else may stand: an Atom, also for true, false and nil. New reference.
cdef PyObject *read_atom(Reader *r) noexcept

# What follows the tag of NEW_PID_EXT and NEWER_REFERENCE_EXT. New reference.
cdef PyObject *read_pid(Reader *r) noexcept
cdef PyObject *read_reference(Reader *r) noexcept

# The object for the UTF-8 name of an atom (True, False, None for those of that name). New reference.
cdef PyObject *atom_value(const unsigned char *name, Py_ssize_t size, Py_ssize_t characters_max) noexcept

# The term at data[offset[0]:end], as `decode_from`: moves the offset past it. Raises DecodeError. Falls back by itself.
cdef object decode_term(const unsigned char *data, Py_ssize_t *offset, Py_ssize_t end, object atoms, bint strings, object limits)

# --- Writing ---

# Begin; `atoms` as `encode_into` has it (a dict, or NULL). Always end with `writer_free`.
cdef void writer_init(Writer *w, PyObject *atoms, bint hands_out) noexcept
cdef void writer_free(Writer *w) noexcept

# Room for `size` more bytes at `pos`, which the caller then writes and advances. -1: no memory.
cdef inline int writer_reserve(Writer *w, Py_ssize_t size) noexcept:
    return 0 if w.end - w.pos >= size else writer_grow(w, size)
cdef int writer_grow(Writer *w, Py_ssize_t size) noexcept

# One term; the first writes any value of `Any`, the others exactly that (a Pid's `node` and so on are checked).
cdef int write_term(Writer *w, PyObject *term) noexcept
cdef int write_atom(Writer *w, PyObject *atom) noexcept
cdef int write_pid(Writer *w, PyObject *pid) noexcept
cdef int write_reference(Writer *w, PyObject *reference) noexcept

# How far it is, and back to there: also the atoms that the table did not have then go.
cdef Mark writer_mark(Writer *w) noexcept
cdef void writer_rewind(Writer *w, Mark mark) noexcept

# What was written as one bytes object (only where nothing was handed out). New reference; then only `writer_free`.
cdef PyObject *writer_bytes(Writer *w) noexcept

# What was written as a list of bytes objects, the big ones as they are.
cdef list writer_chunks(Writer *w)

# Like `write_term`, but raises EncodeError as `encode_into`, and falls back by itself.
cdef int encode_term(Writer *w, object term) except -1

# After a NULL or -1: forget the exception if there is one, unless nobody may (KeyboardInterrupt): that is raised.
cdef int failed() except -1
