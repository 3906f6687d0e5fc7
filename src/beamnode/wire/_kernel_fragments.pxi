# --- Messages in fragments --------------------------------------------------------------------------------------------
# The payload of a message in fragments is put together without its big binaries: what comes is looked through for them,
# and each is received into the bytes object that it becomes. So a binary is copied once, from the buffer that the carrier
# received into. Terms stand one behind the other, a container before its elements, so that looking through them needs to
# know where each begins, and nothing else.

cdef enum:
    BIG_BINARY_BYTES = 65536
    ROOM_FACTOR = 20  # for a big binary, of what has come with its head: nothing is made ready for what is announced
    ROOM_BYTES_MIN = 64
    LOOKED_THROUGH_BYTES = 65536  # without finding one: then there is none

    FRAGMENT_HEAD_BYTES = 18
    FIRST_FRAGMENT = 69
    NEXT_FRAGMENT = 70

cdef class Sequence:
    """One message of which fragments are missing."""

    cdef object control
    cdef tuple atoms
    cdef unsigned long long expected_id
    cdef Py_ssize_t held_bytes   # all that it holds, as `fragments.Assembler` counts
    cdef bytearray terms         # the payload so far, without the bytes of big binaries
    cdef Py_ssize_t looked_at    # where in `terms` the next term begins that was not looked at; -1: looking is over
    cdef Py_ssize_t looked_from  # where looking began, after the last big binary
    cdef list places             # of the tags of big binaries in `terms`
    cdef list binaries           # their bytes, but for one that is still coming:
    cdef PyObject *coming        # of which there are `filled` bytes; NULL: none is
    cdef Py_ssize_t filled
    cdef Py_ssize_t wanted

    def __cinit__(self):
        self.terms = bytearray()
        self.places = []
        self.binaries = []
        self.coming = NULL

    def __dealloc__(self):
        Py_XDECREF(self.coming)

    cdef int add(self, const unsigned char *p, Py_ssize_t size) except -1:
        """The next bytes of the payload."""
        cdef Py_ssize_t used, before
        while size:
            if self.coming != NULL:
                used = min(size, self.wanted - self.filled)
                self.fill(p, used)
            else:
                before = PyByteArray_GET_SIZE(self.terms)
                PyByteArray_Resize(self.terms, before + size)
                memcpy(PyByteArray_AS_STRING(self.terms) + before, p, size)
                if not self.look():
                    return 0
                used = self.looked_at - before  # what is behind the head of the binary is for it, not for `terms`
                PyByteArray_Resize(self.terms, self.looked_at)
            p += used
            size -= used
        return 0

    cdef bint look(self) except -1:
        """Look through the terms that have come. True: up to the head of a big binary, whose bytes come next."""
        cdef const unsigned char *start = <unsigned char *>PyByteArray_AS_STRING(self.terms)
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.terms)
        cdef Py_ssize_t step
        while 0 <= self.looked_at < size:
            step = _term_bytes(start + self.looked_at, size - self.looked_at)
            if step == 0:  # its head is not here yet
                return False
            if start[self.looked_at] == BINARY_EXT and step >= 5 + BIG_BINARY_BYTES:
                self.places.append(self.looked_at)
                self.begin(step - 5, size - self.looked_at - 5)
                self.looked_at += 5
                self.looked_from = self.looked_at
                return True
            self.looked_at += step
            if step < 0 or self.looked_at - self.looked_from > LOOKED_THROUGH_BYTES:
                self.looked_at = -1
        return False

    cdef int begin(self, Py_ssize_t wanted, Py_ssize_t here) except -1:
        self.coming = PyBytes_FromStringAndSize(NULL, min(wanted, max(ROOM_FACTOR * here, ROOM_BYTES_MIN)))
        if self.coming == NULL:
            raise MemoryError
        self.filled = 0
        self.wanted = wanted
        return 0

    cdef int fill(self, const unsigned char *p, Py_ssize_t size) except -1:
        cdef Py_ssize_t room = PyBytes_GET_SIZE(self.coming)
        if self.filled + size > room:
            room = min(self.wanted, max(2 * room, self.filled + size))
            if _PyBytes_Resize(&self.coming, room) < 0:
                raise MemoryError
        memcpy(PyBytes_AS_STRING(self.coming) + self.filled, p, size)
        self.filled += size
        if self.filled == self.wanted:
            self.binaries.append(<object>self.coming)
            Py_DECREF(self.coming)
            self.coming = NULL
        return 0

    cdef object message(self, bint strings, limits):
        """The payload, which is whole; NOTHING where the slow road has to read it, or to tell the error."""
        cdef Reader r
        if len(self.places) != len(self.binaries) or PyByteArray_GET_SIZE(self.terms) == 0:
            return NOTHING
        if reader_init(
            &r,
            <unsigned char *>PyByteArray_AS_STRING(self.terms),
            PyByteArray_GET_SIZE(self.terms),
            <PyObject *>self.atoms,
            strings,
            limits,
        ) < 0:
            return NOTHING
        reader_has_bigs(&r, <PyObject *>self.places, <PyObject *>self.binaries)
        return _term(&r)

    cdef bytes whole(self):
        """All bytes of the payload."""
        cdef Py_ssize_t begin = 0
        pieces = []
        binaries = list(self.binaries)
        if self.coming != NULL:
            binaries.append((<object>self.coming)[: self.filled])
        for place, binary in zip(self.places, binaries, strict=True):
            pieces += (self.terms[begin : place + 5], binary)
            begin = place + 5
        pieces.append(self.terms[begin:])
        return b"".join(pieces)


cdef Py_ssize_t _term_bytes(const unsigned char *p, Py_ssize_t size) noexcept:
    """From one term to the next, which for a container is its first element. 0: too few bytes to tell; -1: a rare one."""
    cdef int tag = p[0]
    if tag == NIL_EXT:
        return 1
    if tag == SMALL_INTEGER_EXT or tag == ATOM_CACHE_REF or tag == SMALL_TUPLE_EXT:
        return 2
    if tag == INTEGER_EXT or tag == LARGE_TUPLE_EXT or tag == LIST_EXT or tag == MAP_EXT:
        return 5
    if tag == NEW_FLOAT_EXT:
        return 9
    if tag == BINARY_EXT:
        return 5 + <Py_ssize_t>bn_load32(p + 1) if size >= 5 else 0
    if tag == SMALL_ATOM_UTF8_EXT:
        return 2 + p[1] if size >= 2 else 0
    if tag == SMALL_BIG_EXT:
        return 3 + p[1] if size >= 2 else 0
    if tag == ATOM_UTF8_EXT or tag == STRING_EXT:
        return 3 + bn_load16(p + 1) if size >= 3 else 0
    if tag == NEW_PID_EXT:
        return 0 if size < 2 else PID_BYTES if p[1] == ATOM_CACHE_REF else -1
    if tag == NEWER_REFERENCE_EXT:
        return 0 if size < 4 else 9 + 4 * <Py_ssize_t>bn_load16(p + 1) if p[3] == ATOM_CACHE_REF else -1
    return -1


cdef class Assembler:
    """As `fragments.Assembler`."""

    cdef dict sequences  # by their ids
    cdef Py_ssize_t held_bytes
    cdef Py_ssize_t message_bytes_max
    cdef Py_ssize_t sequences_max

    def __cinit__(self, limits):
        self.sequences = {}
        self.message_bytes_max = limits.message_bytes_max
        self.sequences_max = limits.fragment_sequences_max

    cdef Sequence begin(self, object sequence_id, unsigned long long fragment_id, Py_ssize_t size):
        """A new sequence, of whose message `size` bytes are here. None: that is all of it."""
        cdef Sequence sequence
        if sequence_id in self.sequences:
            raise ProtocolError(f"a first fragment of sequence {sequence_id}, of which others are missing")
        if fragment_id <= 1:
            if fragment_id == 0:
                raise ProtocolError("fragments are numbered down to 1: there is none with number 0")
            return None
        if len(self.sequences) >= self.sequences_max:
            raise LimitExceeded(
                f"messages in fragments at a time, more than fragment_sequences_max: {len(self.sequences) + 1}",
                limit="fragment_sequences_max",
            )
        self.hold(size)
        sequence = Sequence()
        sequence.expected_id = fragment_id - 1
        sequence.held_bytes = size
        self.sequences[sequence_id] = sequence
        return sequence

    cdef Sequence add(self, object sequence_id, unsigned long long fragment_id, const unsigned char *p, Py_ssize_t size):
        """Bytes of a sequence that was begun; it, if its message is whole."""
        cdef Sequence sequence = self.sequences.get(sequence_id)
        if sequence is None or fragment_id != sequence.expected_id:
            raise ProtocolError(f"fragment {fragment_id} of sequence {sequence_id} is not the one to come")
        self.hold(size)
        sequence.held_bytes += size
        sequence.add(p, size)
        if fragment_id > 1:
            sequence.expected_id -= 1
            return None
        del self.sequences[sequence_id]
        self.held_bytes -= sequence.held_bytes
        return sequence

    cdef int hold(self, Py_ssize_t size) except -1:
        if self.held_bytes + size > self.message_bytes_max:
            raise LimitExceeded(
                f"messages in fragments that hold more than message_bytes_max: {self.message_bytes_max} bytes",
                limit="message_bytes_max",
            )
        self.held_bytes += size
        return 0
