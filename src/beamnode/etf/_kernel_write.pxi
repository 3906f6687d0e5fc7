# --- The buffer -------------------------------------------------------------------------------------------------------

cdef void writer_init(Writer *w, PyObject *atoms, bint hands_out) noexcept:
    w.start = w.pos = w.scratch
    w.end = w.scratch + sizeof(w.scratch)
    w.heap = NULL
    w.atoms = atoms
    w.hands_out = hands_out
    w.handed_count = 0
    w.handed_bytes = 0
    w.handed = NULL


cdef void writer_free(Writer *w) noexcept:
    _forget_handed(w, 0)
    PyMem_Free(w.handed)
    w.handed = NULL
    Py_XDECREF(w.heap)
    w.heap = NULL
    w.start = w.pos = w.end = w.scratch


cdef void _forget_handed(Writer *w, Py_ssize_t count) noexcept:
    """All but the first `count`."""
    while w.handed_count > count:
        w.handed_count -= 1
        w.handed_bytes -= PyBytes_GET_SIZE(w.handed[w.handed_count].binary)
        Py_DECREF(w.handed[w.handed_count].binary)


cdef Mark writer_mark(Writer *w) noexcept:
    cdef Mark mark
    mark.used = w.pos - w.start
    mark.handed_count = w.handed_count
    mark.atoms_known = 0 if w.atoms == NULL else PyDict_Size(w.atoms)
    return mark


cdef void writer_rewind(Writer *w, Mark mark) noexcept:
    PyErr_Clear()  # writing runs nothing that could be interrupted
    w.pos = w.start + mark.used
    _forget_handed(w, mark.handed_count)
    if w.atoms != NULL:
        while PyDict_Size(w.atoms) > mark.atoms_known:
            (<dict>w.atoms).popitem()


cdef int writer_grow(Writer *w, Py_ssize_t size) noexcept:
    """The buffer doubles; a big binary that comes early has about what it needs."""
    cdef Py_ssize_t used = w.pos - w.start
    cdef PyObject *heap
    if size > PY_SSIZE_T_MAX // 4 - used:
        return -1
    if w.heap != NULL:
        if _PyBytes_Resize(&w.heap, 2 * used + size) < 0:  # which frees it then
            w.start = w.pos = w.end = w.scratch
            return -1
    else:
        w.heap = PyBytes_FromStringAndSize(NULL, 2 * used + size)
        if w.heap == NULL:
            return -1
        memcpy(PyBytes_AS_STRING(w.heap), w.start, used)
    w.start = <unsigned char *>PyBytes_AS_STRING(w.heap)
    w.pos = w.start + used
    w.end = w.start + PyBytes_GET_SIZE(w.heap)
    return 0


cdef PyObject *writer_bytes(Writer *w) noexcept:
    cdef Py_ssize_t used = w.pos - w.start
    cdef PyObject *data
    if w.heap == NULL:
        return PyBytes_FromStringAndSize(<char *>w.start, used)
    data = w.heap
    w.heap = NULL
    w.start = w.pos = w.end = w.scratch
    _PyBytes_Resize(&data, used)
    return data


cdef int writer_append_to(Writer *w, PyObject *out) noexcept:
    """Append what was written to a bytearray, the big binaries in their places. -1: it cannot be resized."""
    cdef Py_ssize_t size = PyByteArray_GET_SIZE(out)
    cdef Py_ssize_t i, end, begin = 0
    cdef unsigned char *to
    if PyByteArray_Resize(out, size + (w.pos - w.start) + w.handed_bytes) < 0:
        return -1
    to = <unsigned char *>PyByteArray_AS_STRING(out) + size
    for i in range(w.handed_count + 1):
        end = w.handed[i].at if i < w.handed_count else w.pos - w.start
        memcpy(to, w.start + begin, end - begin)
        to += end - begin
        begin = end
        if i < w.handed_count:
            memcpy(to, PyBytes_AS_STRING(w.handed[i].binary), PyBytes_GET_SIZE(w.handed[i].binary))
            to += PyBytes_GET_SIZE(w.handed[i].binary)
    return 0


cdef list writer_chunks(Writer *w):
    cdef list chunks = []
    cdef Py_ssize_t i, begin = 0
    for i in range(w.handed_count):
        chunks.append((<char *>w.start)[begin : w.handed[i].at])
        chunks.append(<object>w.handed[i].binary)
        begin = w.handed[i].at
    if w.start + begin < w.pos or not chunks:
        chunks.append((<char *>w.start)[begin : w.pos - w.start])
    return chunks


cdef int _hand_out(Writer *w, PyObject *binary) noexcept:
    cdef Handed *handed
    if w.handed_count & (w.handed_count - 1) == 0:  # the array has a power of two of places, and they are taken
        handed = <Handed *>PyMem_Realloc(w.handed, (2 * w.handed_count if w.handed_count else 1) * sizeof(Handed))
        if handed == NULL:
            return -1
        w.handed = handed
    Py_INCREF(binary)
    w.handed[w.handed_count].at = w.pos - w.start
    w.handed[w.handed_count].binary = binary
    w.handed_count += 1
    w.handed_bytes += PyBytes_GET_SIZE(binary)
    return 0


cdef int _write_chunk(Writer *w, PyObject *chunk) noexcept:
    """What the Python codec wrote, bytes or bytearray: big bytes are a binary to hand out."""
    cdef Py_ssize_t size
    if Py_TYPE(chunk) == &PyByteArray_Type:
        return _write_raw(w, <unsigned char *>PyByteArray_AS_STRING(chunk), PyByteArray_GET_SIZE(chunk))
    size = PyBytes_GET_SIZE(chunk)
    if w.hands_out and size >= HANDED_MIN:
        return _hand_out(w, chunk)
    return _write_raw(w, <unsigned char *>PyBytes_AS_STRING(chunk), size)


cdef int _write_raw(Writer *w, const unsigned char *data, Py_ssize_t size) noexcept:
    if writer_reserve(w, size) < 0:
        return -1
    bn_copy(w.pos, data, size)
    w.pos += size
    return 0


cdef int _write_head(Writer *w, int tag, Py_ssize_t size, Py_ssize_t more) noexcept:
    """A tag and a length of four bytes; there is room for `more` bytes after them."""
    if size > UINT32_MAX or writer_reserve(w, 5 + more) < 0:
        return -1
    w.pos[0] = tag
    bn_store32(w.pos + 1, <uint32_t>size)
    w.pos += 5
    return 0


# --- Terms ------------------------------------------------------------------------------------------------------------
# Nothing here runs Python code, so that what is borrowed stays: no call, no container made (which might begin a
# collection of garbage), no reference let go.


cdef int write_term(Writer *w, PyObject *term) noexcept:
    return _write(w, term, 0)


cdef int _write(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    """One term, inside of `depth` containers."""
    cdef PyTypeObject *kind = Py_TYPE(term)
    if kind == &PyLong_Type:
        return _write_int(w, term)
    if kind == ATOM:
        return write_atom(w, term)
    if kind == &PyTuple_Type:
        return _write_tuple(w, term, depth + 1)
    if kind == &PyBytes_Type:
        return _write_bytes(w, term)
    if kind == &PyDict_Type:
        return _write_dict(w, term, depth + 1)
    if kind == &PyList_Type:
        return _write_list(w, term, depth + 1)
    if kind == &PyBool_Type:
        return write_atom(w, TRUE_ATOM if term == Py_True else FALSE_ATOM)
    if kind == &PyFloat_Type:
        return _write_float(w, term)
    if kind == &PyUnicode_Type:
        return _write_str(w, term)
    if term == Py_None:
        return write_atom(w, NIL_ATOM)
    if kind == PID:
        return write_pid(w, term)
    if kind == REFERENCE:
        return write_reference(w, term)
    return _write_rarer(w, term, depth)


cdef int _write_rarer(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    """Also of subclasses what is surely written as their base is: named tuples, for one."""
    cdef PyTypeObject *kind = Py_TYPE(term)
    if kind == &PyByteArray_Type:
        return _write_octets(w, <unsigned char *>PyByteArray_AS_STRING(term), PyByteArray_GET_SIZE(term))
    if kind == &PyMemoryView_Type:
        return _write_memoryview(w, term)
    if kind == PORT:
        return _write_port(w, term)
    if kind == EXPORT:
        return _write_export(w, term)
    if kind == BIT_STRING:
        return _write_bit_string(w, term)
    if kind == IMPROPER_LIST:
        return _write_improper_list(w, term, depth + 1)
    if kind == HASHABLE_DICT:
        return _write_dict(w, term, depth + 1)
    if PyTuple_Check(term) and bn_same_iter(term, &PyTuple_Type):
        return _write_tuple(w, term, depth + 1)
    if PyList_Check(term) and bn_same_iter(term, &PyList_Type):
        return _write_list(w, term, depth + 1)
    if bn_is_plain_int(term):
        return _write_int(w, term)
    if PyFloat_Check(term):
        return _write_float(w, term)
    return -1


# --- Containers -------------------------------------------------------------------------------------------------------


cdef int _write_items(Writer *w, PyObject **items, Py_ssize_t count, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t i
    for i in range(count):
        if _write(w, items[i], depth) < 0:
            return -1
    return 0


cdef int _write_tuple(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t count = PyTuple_GET_SIZE(term)
    if depth > DEPTH_MAX:
        return -1
    if count < 256:
        if writer_reserve(w, 2) < 0:
            return -1
        w.pos[0] = SMALL_TUPLE_EXT
        w.pos[1] = <unsigned char>count
        w.pos += 2
    elif _write_head(w, LARGE_TUPLE_EXT, count, 0) < 0:
        return -1
    return _write_items(w, bn_tuple_items(term), count, depth)


cdef int _write_list(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t count = PyList_GET_SIZE(term)
    if depth > DEPTH_MAX:
        return -1
    if count:
        if _write_head(w, LIST_EXT, count, 0) < 0 or _write_items(w, bn_list_items(term), count, depth) < 0:
            return -1
    if writer_reserve(w, 1) < 0:
        return -1
    w.pos[0] = NIL_EXT
    w.pos += 1
    return 0


cdef int _write_dict(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    cdef Py_ssize_t at = 0
    cdef PyObject *key
    cdef PyObject *value
    if depth > DEPTH_MAX or _write_head(w, MAP_EXT, PyDict_Size(term), 0) < 0:
        return -1
    while PyDict_Next(term, &at, &key, &value):
        if _write(w, key, depth) < 0 or _write(w, value, depth) < 0:
            return -1
    return 0


cdef int _write_improper_list(Writer *w, PyObject *term, Py_ssize_t depth) noexcept:
    cdef PyObject *elements = bn_slot(term, IMPROPER_LIST_ELEMENTS)
    cdef PyObject *tail = bn_slot(term, IMPROPER_LIST_TAIL)
    if depth > DEPTH_MAX or elements == NULL or tail == NULL or Py_TYPE(elements) != &PyTuple_Type:
        return -1
    if PyTuple_GET_SIZE(elements) == 0 or _write_head(w, LIST_EXT, PyTuple_GET_SIZE(elements), 0) < 0:
        return -1
    if _write_items(w, bn_tuple_items(elements), PyTuple_GET_SIZE(elements), depth) < 0:
        return -1
    return _write(w, tail, depth)


# --- Numbers ----------------------------------------------------------------------------------------------------------


cdef int _write_int(Writer *w, PyObject *term) noexcept:
    cdef long long value
    cdef unsigned long long magnitude
    cdef int size = 0
    if not bn_as_int64(term, &value):
        return _write_big(w, term)
    if writer_reserve(w, 11) < 0:
        return -1
    if 0 <= value <= 255:
        w.pos[0] = SMALL_INTEGER_EXT
        w.pos[1] = <unsigned char>value
        w.pos += 2
    elif -0x80000000LL <= value <= 0x7FFFFFFFLL:
        w.pos[0] = INTEGER_EXT
        bn_store32(w.pos + 1, <uint32_t>value)
        w.pos += 5
    else:
        magnitude = 0 - <unsigned long long>value if value < 0 else <unsigned long long>value
        w.pos[0] = SMALL_BIG_EXT
        w.pos[2] = value < 0
        while magnitude:
            w.pos[3 + size] = <unsigned char>(magnitude & 255)
            magnitude >>= 8
            size += 1
        w.pos[1] = size
        w.pos += 3 + size
    return 0


cdef int _write_big(Writer *w, PyObject *term) noexcept:
    cdef Py_ssize_t size = (bn_bits(term) + 7) // 8
    cdef PyObject *magnitude
    cdef bint negative = bn_is_negative(term)
    cdef int failure
    if size > UINT32_MAX or writer_reserve(w, 6 + size) < 0:
        return -1
    if size < 256:
        w.pos[0] = SMALL_BIG_EXT
        w.pos[1] = <unsigned char>size
        w.pos[2] = negative
        w.pos += 3
    else:
        w.pos[0] = LARGE_BIG_EXT
        bn_store32(w.pos + 1, <uint32_t>size)
        w.pos[5] = negative
        w.pos += 6
    magnitude = PyNumber_Negative(term) if negative else PyNumber_Positive(term)
    if magnitude == NULL:
        return -1
    failure = bn_as_bytes(magnitude, w.pos, size)
    Py_DECREF(magnitude)
    w.pos += size
    return failure


cdef int _write_float(Writer *w, PyObject *term) noexcept:
    cdef double value = PyFloat_AS_DOUBLE(term)
    if not isfinite(value) or writer_reserve(w, 9) < 0:
        return -1
    w.pos[0] = NEW_FLOAT_EXT
    bn_store_double(w.pos + 1, value)
    w.pos += 9
    return 0


# --- Atoms ------------------------------------------------------------------------------------------------------------


cdef int write_atom(Writer *w, PyObject *atom) noexcept:
    """By reference to the header's table if there is one with room, otherwise by name."""
    cdef PyObject *external
    cdef int placed
    if atom == NULL or Py_TYPE(atom) != ATOM:
        return -1
    if w.atoms != NULL:
        placed = _write_reference_to(w, atom)
        if placed:
            return -1 if placed < 0 else 0
    external = _external(atom)
    if external == NULL:
        return -1
    return _write_raw(w, <unsigned char *>PyBytes_AS_STRING(external), PyBytes_GET_SIZE(external))


cdef int _write_reference_to(Writer *w, PyObject *atom) noexcept:
    """1: it is in the table, or had room there; 0: there is no room."""
    cdef PyObject *number = PyDict_GetItemWithError(w.atoms, atom)
    cdef long long index
    cdef int failure
    if number != NULL:
        if Py_TYPE(number) != &PyLong_Type or not bn_as_int64(number, &index) or not 0 <= index <= 255:
            return -1
    elif PyErr_Occurred() != NULL:
        return -1
    else:
        index = PyDict_Size(w.atoms)
        if index >= HEADER_ATOMS_MAX:
            return 0
        number = NULL if _external(atom) == NULL else PyLong_FromLongLong(index)
        if number == NULL:
            return -1
        failure = PyDict_SetItem(w.atoms, atom, number)
        Py_DECREF(number)
        if failure:
            return -1
    if writer_reserve(w, 2) < 0:
        return -1
    w.pos[0] = ATOM_CACHE_REF
    w.pos[1] = <unsigned char>index
    w.pos += 2
    return 1


cdef PyObject *_external(PyObject *atom) noexcept:
    """The bytes of an atom, which it remembers. Borrowed; NULL: one that cannot be sent."""
    cdef PyObject *external = bn_slot(atom, ATOM_EXTERNAL)
    cdef PyObject *name
    cdef PyObject *raw
    if external != NULL:
        return external
    name = bn_slot(atom, ATOM_NAME)
    if PyUnicode_GET_LENGTH(name) > ATOM_CHARACTERS_MAX:
        return NULL
    raw = PyUnicode_AsUTF8String(name)
    if raw == NULL:
        return NULL
    external = _external_of(raw, PyBytes_GET_SIZE(raw))
    Py_DECREF(raw)
    if external != NULL:
        bn_set_slot(atom, ATOM_EXTERNAL, external)
    return external


cdef PyObject *_external_of(PyObject *raw, Py_ssize_t size) noexcept:
    cdef Py_ssize_t head = 2 if size < 256 else 3
    cdef PyObject *external = PyBytes_FromStringAndSize(NULL, head + size)
    cdef unsigned char *p
    if external == NULL:
        return NULL
    p = <unsigned char *>PyBytes_AS_STRING(external)
    if head == 2:
        p[0] = SMALL_ATOM_UTF8_EXT
        p[1] = <unsigned char>size
    else:
        p[0] = ATOM_UTF8_EXT
        bn_store16(p + 1, <uint32_t>size)
    memcpy(p + head, PyBytes_AS_STRING(raw), size)
    return external


# --- Binaries ---------------------------------------------------------------------------------------------------------


cdef int _write_octets(Writer *w, const unsigned char *data, Py_ssize_t size) noexcept:
    if _write_head(w, BINARY_EXT, size, size) < 0:
        return -1
    bn_copy(w.pos, data, size)
    w.pos += size
    return 0


cdef int _write_bytes(Writer *w, PyObject *term) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(term)
    if w.hands_out and size >= HANDED_MIN:
        return -1 if _write_head(w, BINARY_EXT, size, 0) < 0 else _hand_out(w, term)
    return _write_octets(w, <unsigned char *>PyBytes_AS_STRING(term), size)


cdef int _write_memoryview(Writer *w, PyObject *term) noexcept:
    cdef Py_buffer view
    cdef int failure
    if PyObject_GetBuffer(term, &view, PyBUF_SIMPLE) < 0:
        return -1
    failure = _write_octets(w, <unsigned char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return failure


cdef int _write_str(Writer *w, PyObject *term) noexcept:
    cdef PyObject *raw
    cdef int failure
    if PyUnicode_IS_COMPACT_ASCII(term):
        return _write_octets(w, <unsigned char *>PyUnicode_DATA(term), PyUnicode_GET_LENGTH(term))
    raw = PyUnicode_AsUTF8String(term)
    if raw == NULL:
        return -1
    failure = _write_octets(w, <unsigned char *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
    Py_DECREF(raw)
    return failure


cdef int _write_bit_string(Writer *w, PyObject *term) noexcept:
    cdef PyObject *data = bn_slot(term, BIT_STRING_DATA)
    cdef long long bits
    cdef Py_ssize_t size
    if data == NULL or Py_TYPE(data) != &PyBytes_Type or not _number(bn_slot(term, BIT_STRING_BITS), 7, &bits):
        return -1
    size = PyBytes_GET_SIZE(data)
    if size == 0 or bits == 0 or _write_head(w, BIT_BINARY_EXT, size, 1 + size) < 0:
        return -1
    w.pos[0] = <unsigned char>bits
    memcpy(w.pos + 1, PyBytes_AS_STRING(data), size)
    w.pos += 1 + size
    (w.pos - 1)[0] &= 0xFF00 >> bits & 0xFF  # the bits that do not count are sent as 0, as OTP does
    return 0


# --- Identifiers ------------------------------------------------------------------------------------------------------


cdef inline bint _number(PyObject *term, long long value_max, long long *value) noexcept:
    """Whether a member is an int from 0 to `value_max`, and which."""
    if term == NULL or Py_TYPE(term) != &PyLong_Type or not bn_as_int64(term, value):
        return False
    return 0 <= value[0] <= value_max


cdef int write_pid(Writer *w, PyObject *pid) noexcept:
    cdef long long id, serial, creation
    if writer_reserve(w, 1) < 0:
        return -1
    w.pos[0] = NEW_PID_EXT
    w.pos += 1
    if write_atom(w, bn_slot(pid, PID_NODE)) < 0 or writer_reserve(w, 12) < 0:
        return -1
    if not _number(bn_slot(pid, PID_ID), UINT32_MAX, &id) or not _number(bn_slot(pid, PID_SERIAL), UINT32_MAX, &serial):
        return -1
    if not _number(bn_slot(pid, PID_CREATION), UINT32_MAX, &creation):
        return -1
    bn_store32(w.pos, <uint32_t>id)
    bn_store32(w.pos + 4, <uint32_t>serial)
    bn_store32(w.pos + 8, <uint32_t>creation)
    w.pos += 12
    return 0


cdef int write_reference(Writer *w, PyObject *reference) noexcept:
    cdef PyObject *words = bn_slot(reference, REFERENCE_WORDS)
    cdef long long number
    cdef Py_ssize_t i, count
    if words == NULL or Py_TYPE(words) != &PyTuple_Type or writer_reserve(w, 3) < 0:
        return -1
    count = PyTuple_GET_SIZE(words)
    if count > REFERENCE_WORDS_MAX:
        return -1
    w.pos[0] = NEWER_REFERENCE_EXT
    bn_store16(w.pos + 1, <uint32_t>count)
    w.pos += 3
    if write_atom(w, bn_slot(reference, REFERENCE_NODE)) < 0 or writer_reserve(w, 4 + 4 * count) < 0:
        return -1
    if not _number(bn_slot(reference, REFERENCE_CREATION), UINT32_MAX, &number):
        return -1
    bn_store32(w.pos, <uint32_t>number)
    for i in range(count):
        if not _number(PyTuple_GET_ITEM(words, i), UINT32_MAX, &number):
            return -1
        bn_store32(w.pos + 4 + 4 * i, <uint32_t>number)
    w.pos += 4 + 4 * count
    return 0


cdef int _write_port(Writer *w, PyObject *port) noexcept:
    cdef long long id, creation
    if writer_reserve(w, 1) < 0:
        return -1
    w.pos[0] = V4_PORT_EXT
    w.pos += 1
    if write_atom(w, bn_slot(port, PORT_NODE)) < 0 or writer_reserve(w, 12) < 0:
        return -1
    if not _number(bn_slot(port, PORT_ID), PY_SSIZE_T_MAX, &id):  # those of more than 63 bits are the Python codec's
        return -1
    if not _number(bn_slot(port, PORT_CREATION), UINT32_MAX, &creation):
        return -1
    bn_store64(w.pos, <uint64_t>id)
    bn_store32(w.pos + 8, <uint32_t>creation)
    w.pos += 12
    return 0


cdef int _write_export(Writer *w, PyObject *export) noexcept:
    cdef long long arity
    if not _number(bn_slot(export, EXPORT_ARITY), 255, &arity) or writer_reserve(w, 1) < 0:
        return -1
    w.pos[0] = EXPORT_EXT
    w.pos += 1
    if write_atom(w, bn_slot(export, EXPORT_MODULE)) < 0 or write_atom(w, bn_slot(export, EXPORT_FUNCTION)) < 0:
        return -1
    if writer_reserve(w, 2) < 0:
        return -1
    w.pos[0] = SMALL_INTEGER_EXT
    w.pos[1] = <unsigned char>arity
    w.pos += 2
    return 0
