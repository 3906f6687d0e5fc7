# --- The classes of terms ---------------------------------------------------------------------------------------------
# They are Python classes with `__slots__`, whose members the kernel reads and writes where they lie. New instances are
# made without `__init__`, which only sets the members.

cdef Py_ssize_t _offset(type kind, str name) except -1:
    cdef Py_ssize_t offset = bn_slot_offset(<PyObject *>kind.__dict__[name])
    if offset <= 0:
        raise ImportError(f"{kind.__name__}.{name} is not a slot: the kernel and terms.py do not belong together")
    return offset


cdef PyTypeObject *ATOM = <PyTypeObject *>terms.Atom
cdef Py_ssize_t ATOM_NAME = _offset(terms.Atom, "name")
cdef Py_ssize_t ATOM_EXTERNAL = _offset(terms.Atom, "_external")

cdef PyTypeObject *PID = <PyTypeObject *>terms.Pid
cdef Py_ssize_t PID_NODE = _offset(terms.Pid, "node")
cdef Py_ssize_t PID_ID = _offset(terms.Pid, "id")
cdef Py_ssize_t PID_SERIAL = _offset(terms.Pid, "serial")
cdef Py_ssize_t PID_CREATION = _offset(terms.Pid, "creation")

cdef PyTypeObject *PORT = <PyTypeObject *>terms.Port
cdef Py_ssize_t PORT_NODE = _offset(terms.Port, "node")
cdef Py_ssize_t PORT_ID = _offset(terms.Port, "id")
cdef Py_ssize_t PORT_CREATION = _offset(terms.Port, "creation")

cdef PyTypeObject *REFERENCE = <PyTypeObject *>terms.Reference
cdef Py_ssize_t REFERENCE_NODE = _offset(terms.Reference, "node")
cdef Py_ssize_t REFERENCE_CREATION = _offset(terms.Reference, "creation")
cdef Py_ssize_t REFERENCE_WORDS = _offset(terms.Reference, "words")

cdef PyTypeObject *EXPORT = <PyTypeObject *>terms.Export
cdef Py_ssize_t EXPORT_MODULE = _offset(terms.Export, "module")
cdef Py_ssize_t EXPORT_FUNCTION = _offset(terms.Export, "function")
cdef Py_ssize_t EXPORT_ARITY = _offset(terms.Export, "arity")

cdef PyTypeObject *BIT_STRING = <PyTypeObject *>terms.BitString
cdef Py_ssize_t BIT_STRING_DATA = _offset(terms.BitString, "data")
cdef Py_ssize_t BIT_STRING_BITS = _offset(terms.BitString, "bits")

cdef PyTypeObject *IMPROPER_LIST = <PyTypeObject *>terms.ImproperList
cdef Py_ssize_t IMPROPER_LIST_ELEMENTS = _offset(terms.ImproperList, "elements")
cdef Py_ssize_t IMPROPER_LIST_TAIL = _offset(terms.ImproperList, "tail")

cdef PyTypeObject *HASHABLE_DICT = <PyTypeObject *>HashableDict
cdef object _hashable_list = HashableList

cdef object _true = terms.Atom("true"), _false = terms.Atom("false"), _nil = terms.Atom("nil")
cdef PyObject *TRUE_ATOM = <PyObject *>_true
cdef PyObject *FALSE_ATOM = <PyObject *>_false
cdef PyObject *NIL_ATOM = <PyObject *>_nil


cdef inline PyObject *_value_of(PyObject *atom) noexcept:
    """What an Atom is outside of identifiers. Borrowed."""
    if atom == TRUE_ATOM:
        return Py_True
    if atom == FALSE_ATOM:
        return Py_False
    if atom == NIL_ATOM:
        return Py_None
    return atom


cdef inline PyObject *_atom_of(PyObject *value) noexcept:
    """The Atom of a value that stands for one; NULL: it does not. Borrowed."""
    if Py_TYPE(value) == ATOM:
        return value
    if value == Py_True:
        return TRUE_ATOM
    if value == Py_False:
        return FALSE_ATOM
    if value == Py_None:
        return NIL_ATOM
    return NULL


# --- Bounds -----------------------------------------------------------------------------------------------------------

cdef object _known_limits = None  # `Limits` are frozen: those of the last call are taken as read
cdef Bounds _known_bounds


cdef int _read_bounds(limits, Bounds *bounds) except -1:
    global _known_limits, _known_bounds
    bounds.depth = limits.term_depth_max
    bounds.elements = limits.term_elements_max
    bounds.atom_characters = limits.atom_characters_max
    bounds.integer_bytes = limits.integer_bytes_max
    _known_bounds = bounds[0]
    _known_limits = limits
    return 0


# --- Atoms by their names ---------------------------------------------------------------------------------------------
# The names seen lately and what they stand for, in sets of four: a new one takes the place of another of its set, so that
# a peer can neither make the table grow nor make a look-up slow. At most 4096 atoms of at most 255 bytes stay alive so.

cdef enum:
    NAMES = 4096
    NAME_BYTES_MAX = 255

cdef struct Name:
    uint64_t first   # words of the name: all of one of up to 16 bytes
    uint64_t last
    Py_ssize_t size
    PyObject *raw    # bytes; NULL where the place is free
    PyObject *value  # an Atom, True, False or None

cdef Name _names[NAMES]


cdef PyObject *atom_value(const unsigned char *name, Py_ssize_t size, Py_ssize_t characters_max) noexcept:
    cdef uint64_t first = bn_first_word(name, size)
    cdef uint64_t last = bn_last_word(name, size)
    cdef uint64_t hash = bn_hash(name, size, first, last)
    cdef Name *place
    cdef Py_ssize_t way
    if size <= characters_max:  # then it has not too many characters
        for way in range(4):
            place = &_names[(hash ^ way) & (NAMES - 1)]
            if place.first != first or place.last != last or place.size != size or place.raw == NULL:
                continue
            if size <= 16 or memcmp(PyBytes_AS_STRING(place.raw), name, size) == 0:
                Py_INCREF(place.value)
                return place.value
    return _new_atom_value(name, size, characters_max, hash)


cdef PyObject *_new_atom_value(const unsigned char *name, Py_ssize_t size, Py_ssize_t characters_max, uint64_t hash) noexcept:
    cdef PyObject *text = PyUnicode_DecodeUTF8(<const char *>name, size, NULL)
    cdef PyObject *value = NULL
    cdef PyObject *raw
    if text == NULL:
        return NULL
    if PyUnicode_GET_LENGTH(text) <= characters_max:
        value = _atom_of_text(text)
    Py_DECREF(text)
    if value != NULL and size <= NAME_BYTES_MAX:
        raw = PyBytes_FromStringAndSize(<const char *>name, size)
        if raw == NULL:
            Py_DECREF(value)
            return NULL
        _remember(hash, raw, value)
    return value


cdef PyObject *_atom_of_text(PyObject *text) noexcept:
    cdef PyObject *atom = PyObject_CallOneArg(<PyObject *>ATOM, text)
    cdef PyObject *value
    if atom == NULL:
        return NULL
    value = _value_of(atom)
    if value != atom:
        Py_INCREF(value)
        Py_DECREF(atom)
    return value


cdef void _remember(uint64_t hash, PyObject *raw, PyObject *value) noexcept:
    """Put a name (whose reference it takes over) where nothing is, or in the place of one of its set."""
    cdef Name *place = &_names[(hash ^ (hash >> 62)) & (NAMES - 1)]
    cdef Name old
    cdef Py_ssize_t way, size = PyBytes_GET_SIZE(raw)
    cdef const unsigned char *name = <const unsigned char *>PyBytes_AS_STRING(raw)
    for way in range(4):
        if _names[(hash ^ way) & (NAMES - 1)].raw == NULL:
            place = &_names[(hash ^ way) & (NAMES - 1)]
            break
    old = place[0]
    Py_INCREF(value)
    place.raw, place.value = raw, value
    place.first, place.last, place.size = bn_first_word(name, size), bn_last_word(name, size), size
    Py_XDECREF(old.raw)
    Py_XDECREF(old.value)  # last: when an atom goes, Python code runs


# --- Pids -------------------------------------------------------------------------------------------------------------
# The pids seen lately, one in each place: who talks to whom recurs from message to message.

cdef enum:
    PIDS = 1024

cdef struct Seen:
    PyObject *pid  # NULL where the place is free
    PyObject *node
    uint32_t id
    uint32_t serial
    uint32_t creation

cdef Seen _pids[PIDS]


cdef PyObject *_pid(PyObject *node, uint32_t id, uint32_t serial, uint32_t creation) noexcept:
    cdef Seen *place = &_pids[(id ^ (id >> 10) ^ (serial << 5) ^ (<size_t>node >> 4)) & (PIDS - 1)]
    cdef Seen old = place[0]
    cdef PyObject *pid
    if old.pid != NULL and old.id == id and old.serial == serial and old.node == node and old.creation == creation:
        Py_INCREF(old.pid)
        return old.pid
    pid = _new_pid(node, id, serial, creation)
    if pid == NULL:
        return NULL
    old = place[0]  # making objects may run a collection of garbage, and that anything
    Py_INCREF(pid)
    Py_INCREF(node)
    place.pid, place.node, place.id, place.serial, place.creation = pid, node, id, serial, creation
    Py_XDECREF(old.pid)
    Py_XDECREF(old.node)
    return pid


cdef PyObject *_new_pid(PyObject *node, uint32_t id, uint32_t serial, uint32_t creation) noexcept:
    cdef PyObject *pid = bn_new(PID)
    if pid == NULL:
        return NULL
    Py_INCREF(node)
    bn_set_slot(pid, PID_NODE, node)
    bn_set_slot(pid, PID_ID, PyLong_FromLongLong(id))
    bn_set_slot(pid, PID_SERIAL, PyLong_FromLongLong(serial))
    bn_set_slot(pid, PID_CREATION, PyLong_FromLongLong(creation))
    if bn_slot(pid, PID_ID) == NULL or bn_slot(pid, PID_SERIAL) == NULL or bn_slot(pid, PID_CREATION) == NULL:
        Py_DECREF(pid)
        return NULL
    return pid
