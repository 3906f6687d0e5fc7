# --- The cursor -------------------------------------------------------------------------------------------------------


cdef int reader_init(Reader *r, const unsigned char *data, Py_ssize_t size, PyObject *atoms, bint strings, object limits) noexcept:
    if limits is _known_limits:
        r.bounds = _known_bounds
    else:
        try:
            _read_bounds(limits, &r.bounds)
        except Exception:  # one that is no number, or none of 64 bits
            return -1
    r.pos = r.data = data
    r.end = data + size
    r.big_at = -1
    r.atoms = atoms
    r.strings = strings
    if r.bounds.depth > DEPTH_MAX:
        r.bounds.depth = DEPTH_MAX
    r.room = size if size < r.bounds.elements else r.bounds.elements
    return 0


cdef void reader_has_bigs(Reader *r, PyObject *places, PyObject *bigs) noexcept:
    r.big_places = places
    r.bigs = bigs
    r.big_next = 0
    _find_big(r)


cdef void _find_big(Reader *r) noexcept:
    r.big_at = -1
    if r.big_next < PyList_GET_SIZE(r.big_places):
        r.big_at = PyLong_AsSsize_t(PyList_GET_ITEM(r.big_places, r.big_next))


cdef PyObject *read_term(Reader *r) noexcept:
    cdef PyObject *term
    cdef int collecting
    if r.end - r.pos < LONG_BYTES_MIN:
        return _read(r, 0, False)
    # Half-made terms are no garbage: with the collector on, sixteen million empty lists take four times as long, most of
    # it to walk through them again and again. No other thread runs meanwhile.
    collecting = PyGC_Disable()
    term = _read(r, 0, False)
    if collecting:
        PyGC_Enable()
    return term


cdef PyObject *_read(Reader *r, Py_ssize_t depth, bint frozen) noexcept:
    """One term, inside of `depth` containers; `frozen`: inside a map key, where lists must be hashable."""
    cdef const unsigned char *p = r.pos
    cdef Py_ssize_t left = r.end - p
    cdef int tag
    if left < 2:
        return _read_nil(r, frozen) if left == 1 and p[0] == NIL_EXT else NULL
    tag = p[0]
    if tag == SMALL_INTEGER_EXT:
        r.pos = p + 2
        return PyLong_FromLong(p[1])
    elif tag == SMALL_ATOM_UTF8_EXT:
        if left - 2 < p[1]:
            return NULL
        r.pos = p + 2 + p[1]
        return atom_value(p + 2, p[1], r.bounds.atom_characters)
    elif tag == INTEGER_EXT:
        if left < 5:
            return NULL
        r.pos = p + 5
        return PyLong_FromLong(<int>bn_load32(p + 1))
    elif tag == SMALL_TUPLE_EXT:
        r.pos = p + 2
        return _read_tuple(r, p[1], depth + 1, frozen)
    elif tag == ATOM_CACHE_REF:
        return _read_header_atom(r, False)
    elif tag == BINARY_EXT:
        return _read_binary(r)
    elif tag == NIL_EXT:
        return _read_nil(r, frozen)
    elif tag == LIST_EXT:
        return _read_list(r, depth + 1, frozen)
    elif tag == MAP_EXT:
        return NULL if frozen else _read_map(r, depth + 1)
    elif tag == STRING_EXT:
        return _read_string(r, frozen)
    elif tag == NEW_PID_EXT:
        r.pos = p + 1
        return read_pid(r)
    elif tag == NEWER_REFERENCE_EXT:
        r.pos = p + 1
        return read_reference(r)
    elif tag == LARGE_TUPLE_EXT:
        if left < 5:
            return NULL
        r.pos = p + 5
        return _read_tuple(r, bn_load32(p + 1), depth + 1, frozen)
    return _read_rarer(r, tag)


cdef PyObject *_read_rarer(Reader *r, int tag) noexcept:
    if tag == NEW_FLOAT_EXT:
        return _read_float(r)
    elif tag == SMALL_BIG_EXT or tag == LARGE_BIG_EXT:
        return _read_big(r)
    elif tag == V4_PORT_EXT or tag == NEW_PORT_EXT:
        return _read_port(r)
    elif tag == ATOM_EXT or tag == ATOM_UTF8_EXT:
        return _read_long_atom(r)
    elif tag == EXPORT_EXT:
        return _read_export(r)
    elif tag == BIT_BINARY_EXT:
        return _read_bit_binary(r)
    return NULL


# --- Containers -------------------------------------------------------------------------------------------------------


cdef inline bint _may_open(Reader *r, Py_ssize_t count, Py_ssize_t depth) noexcept:
    """Whether a container of so many elements may stand here. Each takes a byte, and no byte is an element of two."""
    if depth > r.bounds.depth or count > r.room:
        return False
    r.room -= count
    return True


cdef PyObject *_read_tuple(Reader *r, Py_ssize_t count, Py_ssize_t depth, bint frozen) noexcept:
    cdef PyObject *result
    cdef PyObject *item
    cdef Py_ssize_t i
    if not _may_open(r, count, depth):
        return NULL
    result = PyTuple_New(count)
    if result == NULL:
        return NULL
    for i in range(count):
        item = _read(r, depth, frozen)
        if item == NULL:
            Py_DECREF(result)
            return NULL
        PyTuple_SET_ITEM(result, i, item)
    return result


cdef PyObject *_read_list(Reader *r, Py_ssize_t depth, bint frozen) noexcept:
    cdef PyObject *result
    cdef PyObject *item
    cdef Py_ssize_t i, count
    if r.end - r.pos < 6:
        return NULL
    count = bn_load32(r.pos + 1)
    r.pos += 5
    if not _may_open(r, count, depth):
        return NULL
    result = PyList_New(count)
    if result == NULL:
        return NULL
    for i in range(count):
        item = _read(r, depth, frozen)
        if item == NULL:
            Py_DECREF(result)
            return NULL
        PyList_SET_ITEM(result, i, item)
    if r.pos < r.end and r.pos[0] == NIL_EXT:
        r.pos += 1
        return _hashable(result) if frozen else result
    return _with_tail(r, result, depth, frozen)


cdef PyObject *_with_tail(Reader *r, PyObject *items, Py_ssize_t depth, bint frozen) noexcept:
    """An improper list of `items`, which it takes over. A list that goes on as another list is the Python codec's."""
    cdef PyObject *result = NULL
    cdef PyObject *elements = NULL
    cdef PyObject *tail = NULL
    if not frozen and PyList_GET_SIZE(items) and r.pos < r.end and r.pos[0] != LIST_EXT and r.pos[0] != STRING_EXT:
        if _may_open(r, 1, depth):
            tail = _read(r, depth, False)
    if tail != NULL:
        elements = PyList_AsTuple(items)
        if elements != NULL:
            result = bn_new(IMPROPER_LIST)
    Py_DECREF(items)
    if result == NULL:
        Py_XDECREF(elements)
        Py_XDECREF(tail)
        return NULL
    bn_set_slot(result, IMPROPER_LIST_ELEMENTS, elements)
    bn_set_slot(result, IMPROPER_LIST_TAIL, tail)
    return result


cdef PyObject *_hashable(PyObject *items) noexcept:
    """A HashableList of a list, which it takes over."""
    cdef PyObject *result
    if items == NULL:
        return NULL
    result = PyObject_CallOneArg(<PyObject *>_hashable_list, items)
    Py_DECREF(items)
    return result


cdef PyObject *_read_nil(Reader *r, bint frozen) noexcept:
    r.pos += 1
    return _hashable(PyList_New(0)) if frozen else PyList_New(0)


cdef PyObject *_read_string(Reader *r, bint frozen) noexcept:
    cdef const unsigned char *p = r.pos
    cdef PyObject *result
    cdef Py_ssize_t i, count
    if r.end - p < 3:
        return NULL
    count = bn_load16(p + 1)
    if r.end - p - 3 < count:
        return NULL
    result = PyList_New(count)
    if result == NULL:
        return NULL
    for i in range(count):
        PyList_SET_ITEM(result, i, PyLong_FromLong(p[3 + i]))  # which are all there already
    r.pos = p + 3 + count
    return _hashable(result) if frozen else result


cdef inline bint _may_choose_hash(PyObject *key) noexcept:
    """Whether a peer can make many keys of one hash like this one: not of texts, whose hash has a secret in it."""
    cdef PyTypeObject *kind = Py_TYPE(key)
    cdef long long number
    if kind == ATOM or kind == &PyBytes_Type or kind == &PyUnicode_Type or kind == PID:
        return False
    if kind == &PyLong_Type:  # a small one is its own hash
        return not bn_as_int64(key, &number) or number >= HASH_MODULUS or number <= -HASH_MODULUS
    return True


cdef struct HashCounts:  # of the keys of one map; some hashes share a counter
    unsigned char *counts  # NULL until there is one
    int shift


cdef int _count_hash(HashCounts *hashes, Py_ssize_t keys, PyObject *key) noexcept:
    """Count a hash; -1: there may be too many like it."""
    cdef uint64_t place
    if hashes.counts == NULL:
        hashes.shift = 64 - 10
        while (keys >> (64 - hashes.shift)) > 4:  # so that few share one
            hashes.shift -= 1
        hashes.counts = <unsigned char *>PyMem_Calloc(<size_t>1 << (64 - hashes.shift), 1)
        if hashes.counts == NULL:
            return -1
    place = (<uint64_t>PyObject_Hash(key) * <uint64_t>0x9E3779B97F4A7C15) >> hashes.shift
    hashes.counts[place] += 1
    return -1 if hashes.counts[place] > EQUAL_HASHES_MAX else 0


cdef PyObject *_read_map(Reader *r, Py_ssize_t depth) noexcept:
    cdef PyObject *result
    cdef PyObject *key
    cdef PyObject *value
    cdef HashCounts hashes
    cdef Py_ssize_t i, count
    cdef int failure
    if r.end - r.pos < 5:
        return NULL
    count = bn_load32(r.pos + 1)
    r.pos += 5
    if not _may_open(r, 2 * count, depth):
        return NULL
    result = bn_new_dict(count)
    if result == NULL:
        return NULL
    hashes.counts = NULL
    for i in range(count):
        key = _read(r, depth, True)
        value = NULL if key == NULL else _read(r, depth, False)
        failure = -1 if value == NULL else PyDict_SetItem(result, key, value)
        if count > EQUAL_HASHES_MAX and not failure and _may_choose_hash(key):
            failure = _count_hash(&hashes, count, key)  # too many of one: whether they are, Python finds out
        Py_XDECREF(key)
        Py_XDECREF(value)
        if failure:
            PyMem_Free(hashes.counts)
            Py_DECREF(result)
            return NULL
    PyMem_Free(hashes.counts)
    if PyDict_Size(result) != count:  # a key that comes twice, or that Python takes for another
        Py_DECREF(result)
        return NULL
    return result


# --- Numbers ----------------------------------------------------------------------------------------------------------


cdef PyObject *_read_float(Reader *r) noexcept:
    cdef double value
    if r.end - r.pos < 9:
        return NULL
    value = bn_load_double(r.pos + 1)
    if not isfinite(value):
        return NULL
    r.pos += 9
    return PyFloat_FromDouble(value)


cdef PyObject *_read_big(Reader *r) noexcept:
    cdef Py_ssize_t head = 3 if r.pos[0] == SMALL_BIG_EXT else 6
    cdef Py_ssize_t size
    cdef const unsigned char *p = r.pos + head
    cdef PyObject *magnitude
    cdef PyObject *value
    if r.end - r.pos < head:
        return NULL
    size = r.pos[1] if head == 3 else <Py_ssize_t>bn_load32(r.pos + 1)
    if r.end - p < size or size > r.bounds.integer_bytes:
        return NULL
    r.pos = p + size
    magnitude = PyLong_FromUnsignedLongLong(bn_load64_little(p)) if size == 8 else bn_from_bytes(p, size)
    if magnitude == NULL or (p - 1)[0] == 0:
        return magnitude
    value = PyNumber_Negative(magnitude)
    Py_DECREF(magnitude)
    return value


# --- Atoms ------------------------------------------------------------------------------------------------------------


cdef PyObject *_read_header_atom(Reader *r, bint as_atom) noexcept:
    cdef Py_ssize_t index = r.pos[1]
    cdef PyObject *value = NULL
    if r.atoms != NULL:
        if Py_TYPE(r.atoms) == &PyTuple_Type:
            if index < PyTuple_GET_SIZE(r.atoms):
                value = PyTuple_GET_ITEM(r.atoms, index)
        elif index < PyList_GET_SIZE(r.atoms):
            value = PyList_GET_ITEM(r.atoms, index)
    if value != NULL:
        value = _atom_of(value)
    if value == NULL:
        return NULL
    if not as_atom:
        value = _value_of(value)
    r.pos += 2
    Py_INCREF(value)
    return value


cdef PyObject *_read_long_atom(Reader *r) noexcept:
    """ATOM_UTF8_EXT, and the ATOM_EXT that OTP 25 writes outside of channels: Latin-1."""
    cdef const unsigned char *p = r.pos + 3
    cdef Py_ssize_t i, size
    if r.end - r.pos < 3:
        return NULL
    size = bn_load16(r.pos + 1)
    if r.end - p < size or size > 4 * r.bounds.atom_characters:
        return NULL
    if r.pos[0] == ATOM_EXT:
        for i in range(size):
            if p[i] > 127:
                return NULL
    r.pos = p + size
    return atom_value(p, size, r.bounds.atom_characters)


cdef PyObject *read_atom(Reader *r) noexcept:
    cdef const unsigned char *p = r.pos
    cdef PyObject *value = NULL
    cdef PyObject *atom
    if r.end - p < 2:
        return NULL
    if p[0] == ATOM_CACHE_REF:
        return _read_header_atom(r, True)
    if p[0] == SMALL_ATOM_UTF8_EXT or p[0] == ATOM_UTF8_EXT or p[0] == ATOM_EXT:
        value = _read(r, 0, False)
    if value == NULL:
        return NULL
    atom = _atom_of(value)
    if atom != value:
        Py_INCREF(atom)
        Py_DECREF(value)
    return atom


# --- Binaries ---------------------------------------------------------------------------------------------------------


cdef PyObject *_read_binary(Reader *r) noexcept:
    cdef const char *p = <const char *>r.pos + 5
    cdef PyObject *text
    cdef Py_ssize_t size
    if r.end - r.pos < 5:
        return NULL
    if r.pos - r.data == r.big_at:
        return _read_big_binary(r)
    size = bn_load32(r.pos + 1)
    if r.end - r.pos - 5 < size:
        return NULL
    r.pos += 5 + size
    if r.strings:
        text = PyUnicode_DecodeUTF8(p, size, NULL)
        if text != NULL:
            return text
        PyErr_Clear()
    return PyBytes_FromStringAndSize(p, size)


cdef PyObject *_read_big_binary(Reader *r) noexcept:
    cdef PyObject *big = PyList_GET_ITEM(r.bigs, r.big_next)
    cdef PyObject *text
    r.pos += 5
    r.big_next += 1
    _find_big(r)
    if r.strings:
        text = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(big), PyBytes_GET_SIZE(big), NULL)
        if text != NULL:
            return text
        PyErr_Clear()
    Py_INCREF(big)
    return big


cdef PyObject *_read_bit_binary(Reader *r) noexcept:
    cdef const unsigned char *p = r.pos
    cdef PyObject *data
    cdef PyObject *result
    cdef Py_ssize_t size
    cdef int bits
    if r.end - p < 6:
        return NULL
    size = bn_load32(p + 1)
    bits = p[5]
    if r.end - p - 6 < size or size == 0 or bits < 1 or bits > 8:
        return NULL
    r.pos = p + 6 + size
    data = PyBytes_FromStringAndSize(NULL, size)
    if data == NULL:
        return NULL
    memcpy(PyBytes_AS_STRING(data), p + 6, size)
    PyBytes_AS_STRING(data)[size - 1] &= <char>(0xFF00 >> bits)  # the bits that do not count are no part of the term
    if bits == 8:
        return data
    result = bn_new(BIT_STRING)
    if result == NULL:
        Py_DECREF(data)
        return NULL
    bn_set_slot(result, BIT_STRING_DATA, data)
    bn_set_slot(result, BIT_STRING_BITS, PyLong_FromLong(bits))
    return result


# --- Identifiers ------------------------------------------------------------------------------------------------------


cdef PyObject *read_pid(Reader *r) noexcept:
    cdef const unsigned char *p
    cdef PyObject *pid
    cdef PyObject *node = read_atom(r)
    if node == NULL:
        return NULL
    p = r.pos
    if r.end - p < 12:
        Py_DECREF(node)
        return NULL
    pid = _pid(node, bn_load32(p), bn_load32(p + 4), bn_load32(p + 8))
    Py_DECREF(node)
    r.pos = p + 12
    return pid


cdef PyObject *read_reference(Reader *r) noexcept:
    cdef PyObject *result = NULL
    cdef PyObject *words = NULL
    cdef PyObject *node
    cdef Py_ssize_t i, count
    if r.end - r.pos < 2:
        return NULL
    count = bn_load16(r.pos)
    r.pos += 2
    node = read_atom(r) if count <= REFERENCE_WORDS_MAX else NULL
    if node == NULL:
        return NULL
    if r.end - r.pos >= 4 + 4 * count:
        words = PyTuple_New(count)
    if words != NULL:
        for i in range(count):
            PyTuple_SET_ITEM(words, i, PyLong_FromLongLong(bn_load32(r.pos + 4 + 4 * i)))
            if PyTuple_GET_ITEM(words, i) == NULL:
                break
        else:
            result = _new_identifier(REFERENCE, node, REFERENCE_NODE, bn_load32(r.pos), REFERENCE_CREATION)
    if result == NULL:
        Py_XDECREF(words)
        Py_DECREF(node)
        return NULL
    bn_set_slot(result, REFERENCE_WORDS, words)
    r.pos += 4 + 4 * count
    return result


cdef PyObject *_new_identifier(
    PyTypeObject *kind, PyObject *node, Py_ssize_t node_at, uint32_t creation, Py_ssize_t creation_at
) noexcept:
    """One with its node, a reference to which it takes over unless it fails, and its creation."""
    cdef PyObject *number = PyLong_FromLongLong(creation)
    cdef PyObject *result = NULL if number == NULL else bn_new(kind)
    if result == NULL:
        Py_XDECREF(number)
        return NULL
    bn_set_slot(result, node_at, node)
    bn_set_slot(result, creation_at, number)
    return result


cdef PyObject *_read_port(Reader *r) noexcept:
    cdef PyObject *result = NULL
    cdef PyObject *number = NULL
    cdef PyObject *node
    cdef Py_ssize_t size = 8 if r.pos[0] == V4_PORT_EXT else 4
    r.pos += 1
    node = read_atom(r)
    if node == NULL:
        return NULL
    if r.end - r.pos >= size + 4:
        number = PyLong_FromUnsignedLongLong(bn_load64(r.pos) if size == 8 else bn_load32(r.pos))
    if number != NULL:
        result = _new_identifier(PORT, node, PORT_NODE, bn_load32(r.pos + size), PORT_CREATION)
    if result == NULL:
        Py_XDECREF(number)
        Py_DECREF(node)
        return NULL
    bn_set_slot(result, PORT_ID, number)
    r.pos += size + 4
    return result


cdef PyObject *_read_export(Reader *r) noexcept:
    cdef PyObject *result = NULL
    cdef PyObject *module
    cdef PyObject *function = NULL
    r.pos += 1
    module = read_atom(r)
    if module != NULL:
        function = read_atom(r)
    if function != NULL and r.end - r.pos >= 2 and r.pos[0] == SMALL_INTEGER_EXT:
        result = bn_new(EXPORT)
    if result == NULL:
        Py_XDECREF(function)
        Py_XDECREF(module)
        return NULL
    bn_set_slot(result, EXPORT_MODULE, module)
    bn_set_slot(result, EXPORT_FUNCTION, function)
    bn_set_slot(result, EXPORT_ARITY, PyLong_FromLong(r.pos[1]))
    r.pos += 2
    return result
