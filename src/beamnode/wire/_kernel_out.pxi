# --- What leaves ------------------------------------------------------------------------------------------------------

cdef enum:
    FRAGMENT_BYTES = 65536
    HEAD_BYTES = 6           # length, VERSION, NORMAL_HEADER
    OWN_CHUNK_BYTES = 16384  # see outbound.py

cdef object _EMPTY = terms.Atom("")  # where a cookie was once


cdef class Outbound:
    """As `outbound.Outbound`, whose road every record takes that is no message behind an atom cache."""

    cdef readonly long long frames_written
    cdef readonly long long bytes_written
    cdef object flags
    cdef object slow
    cdef bint cached
    cdef bint sends_sender
    cdef bint sends_altact
    cdef bint sends_alias
    cdef object cache           # of atoms: a `header.AtomCacheOut`
    cdef dict slots_of          # its table
    cdef object all_lanes       # a `departures.Lanes`, or None
    cdef dict lanes             # by sender, where a large message of its is still leaving
    cdef dict atoms             # of the message that is being written: Atom -> place in its header
    cdef list chunks
    cdef bytearray gathered     # small messages, after the chunks
    cdef Py_ssize_t chunk_bytes
    cdef long long sequence_id

    def __init__(self, int_flags, cache=None, lanes=None):
        self.flags = int_flags
        self.cached = bool(int_flags & Flag.DIST_HDR_ATOM_CACHE)
        self.sends_sender = bool(int_flags & Flag.SEND_SENDER)
        self.sends_altact = bool(int_flags & Flag.ALTACT_SIG)
        self.sends_alias = bool(int_flags & Flag.ALIAS)
        self.cache = AtomCacheOut() if cache is None else cache
        self.slots_of = self.cache.slots_of
        self.slow = outbound.Outbound(int_flags, self.cache, lanes)
        self.all_lanes = lanes
        self.lanes = {} if lanes is None else lanes.open
        self.atoms = {}
        self.chunks = []
        self.gathered = bytearray()

    # --- Messages -----------------------------------------------------------------------------------------------------

    def send_to_pid(self, sender, to, message):
        """`send` of a `Send`; the bytes that wait now."""
        cdef Writer w
        if (
            self.cached
            and self.sends_sender
            and Py_TYPE(<PyObject *>to) == PID
            and Py_TYPE(<PyObject *>sender) == PID
            and not self.has_lane(sender)
        ):
            writer_init(&w, <PyObject *>self.atoms, True)
            try:
                _write_op(&w, 3, SEND_SENDER)
                if write_pid(&w, <PyObject *>sender) == 0 and write_pid(&w, <PyObject *>to) == 0:
                    self.queue(&w, sender, message)
                    return self.pending()
            finally:
                self.end(&w)
        failed()
        self.send(Send(to, message, sender))
        return self.all_pending()

    def send_to_name(self, sender, name, message):
        """`send` of a `RegSend`; the bytes that wait now."""
        cdef Writer w
        if self.cached and Py_TYPE(<PyObject *>sender) == PID and not self.has_lane(sender):
            writer_init(&w, <PyObject *>self.atoms, True)
            try:
                _write_op(&w, 4, REG_SEND)
                if (
                    write_pid(&w, <PyObject *>sender) == 0
                    and write_atom(&w, <PyObject *>_EMPTY) == 0
                    and write_atom(&w, <PyObject *>name) == 0
                ):
                    self.queue(&w, sender, message)
                    return self.pending()
            finally:
                self.end(&w)
        failed()
        self.send(RegSend(sender, name, message))
        return self.all_pending()

    def send_to_alias(self, sender, alias, message):
        """`send` of an `AliasSend`; the bytes that wait now."""
        cdef Writer w
        if (
            self.cached
            and (self.sends_altact or self.sends_alias)
            and _are_pid_and_alias(sender, alias)
            and not self.has_lane(sender)
        ):
            writer_init(&w, <PyObject *>self.atoms, True)
            try:
                if self.sends_altact:
                    _write_op(&w, 4, ALTACT_SIG_SEND)
                    w.pos[0], w.pos[1] = SMALL_INTEGER_EXT, ALTACT_ALIAS
                    w.pos += 2
                else:
                    _write_op(&w, 3, ALIAS_SEND)
                if write_pid(&w, <PyObject *>sender) == 0 and write_reference(&w, <PyObject *>alias) == 0:
                    self.queue(&w, sender, message)
                    return self.pending()
            finally:
                self.end(&w)
        failed()
        self.send(AliasSend(sender, alias, message))
        return self.all_pending()

    cdef object all_pending(self):
        return self.pending() if self.all_lanes is None else self.pending() + self.all_lanes.waiting_bytes

    cdef bint has_lane(self, object sender) except -1:
        return PyDict_Size(<PyObject *>self.lanes) != 0 and sender in self.lanes

    cdef int queue(self, Writer *w, object sender, object message) except -1:
        """Behind the control message that was written: the message, and all of it as a frame to what waits."""
        cdef Py_ssize_t control_bytes = w.pos - w.start
        cdef Py_ssize_t size
        encode_term(w, message)
        size = w.pos - w.start
        if w.handed_count or size > FRAGMENT_BYTES:
            self.slow.queue_large(writer_chunks(w), size + w.handed_bytes, control_bytes, dict(self.atoms), sender)
            self.take_slow()
        else:
            self.append_frame(w.start, size)
        return 0

    cdef int append_frame(self, const unsigned char *body, Py_ssize_t size) except -1:
        """A frame of the terms in `body`, behind a header with `self.atoms`."""
        cdef unsigned char table[2 + 128 + 255]
        cdef Py_ssize_t table_bytes = self.known_table(table)
        cdef const unsigned char *its = table
        cdef Py_ssize_t before, length
        cdef unsigned char *p
        cdef bytes made
        if table_bytes == 0:  # it has new entries
            made = self.cache.table(self.atoms)
            its = <const unsigned char *>PyBytes_AS_STRING(<PyObject *>made)
            table_bytes = PyBytes_GET_SIZE(<PyObject *>made)
        before = PyByteArray_GET_SIZE(self.gathered)
        length = 2 + table_bytes + size
        PyByteArray_Resize(self.gathered, before + LENGTH_BYTES + length)
        p = <unsigned char *>PyByteArray_AS_STRING(self.gathered) + before
        bn_store32(p, <uint32_t>length)
        p[4], p[5] = VERSION, NORMAL_HEADER
        memcpy(p + HEAD_BYTES, its, table_bytes)
        memcpy(p + HEAD_BYTES + table_bytes, body, size)
        self.frames_written += 1
        self.bytes_written += LENGTH_BYTES + length
        return 0

    cdef Py_ssize_t known_table(self, unsigned char *table) except -1:
        """Write the header's table for `self.atoms`, if the peer has them all; its size, or 0: it has not."""
        cdef Py_ssize_t count = PyDict_Size(<PyObject *>self.atoms)
        cdef unsigned char *flags = table + 1
        cdef unsigned char *place = table + 1 + (count >> 1) + 1
        cdef Py_ssize_t at = 0, index = 0
        cdef PyObject *atom
        cdef PyObject *number
        cdef PyObject *found
        cdef long slot
        table[0] = <unsigned char>count
        if count == 0:
            return 1
        memset(flags, 0, (count >> 1) + 1)
        while PyDict_Next(<PyObject *>self.atoms, &at, &atom, &number):
            found = PyDict_GetItemWithError(<PyObject *>self.slots_of, atom)
            if found == NULL:
                return 0
            slot = PyLong_AsLong(<object>found)
            flags[index >> 1] |= <unsigned char>(slot >> 8 << (4 if index & 1 else 0))
            place[index] = <unsigned char>(slot & 255)
            index += 1
        return place + count - table

    cdef int end(self, Writer *w) except -1:
        writer_free(w)
        if PyDict_Size(<PyObject *>self.atoms):
            self.atoms.clear()
        return 0

    # --- Everything else ----------------------------------------------------------------------------------------------

    def send(self, record):
        """Encode a record and queue it; one that the peer does not know of is dropped. Raises EncodeError."""
        self.slow.send(record)
        self.take_slow()

    def tick(self):
        """Queue a tick."""
        self.slow.tick()
        self.take_slow()

    cdef int take_slow(self) except -1:
        """Put behind what waits here what waits there."""
        cdef Py_ssize_t size
        for chunk in self.slow.data_to_send():
            size = len(chunk)
            if size < OWN_CHUNK_BYTES:
                self.gathered += chunk
            else:
                if self.gathered:
                    self.chunks.append(self.gathered)
                    self.chunk_bytes += PyByteArray_GET_SIZE(self.gathered)
                    self.gathered = bytearray()
                self.chunks.append(chunk)
                self.chunk_bytes += size
        self.frames_written += self.slow.frames_written
        self.bytes_written += self.slow.bytes_written
        self.slow.frames_written = self.slow.bytes_written = 0
        return 0

    def data_to_send(self):
        """What to write now, in order; it is forgotten here. The chunks are the caller's."""
        cdef list chunks = self.chunks
        if PyByteArray_GET_SIZE(self.gathered):
            chunks.append(self.gathered)
            self.gathered = bytearray()
        self.chunks = []
        self.chunk_bytes = 0
        return chunks

    cdef Py_ssize_t pending(self):
        return self.chunk_bytes + PyByteArray_GET_SIZE(self.gathered)

    @property
    def pending_bytes(self):
        """What `data_to_send` would give now."""
        return self.pending()


cdef inline void _write_op(Writer *w, int arity, int op) noexcept:
    """The beginning of a control tuple; a new Writer has room for it."""
    w.pos[0], w.pos[1], w.pos[2], w.pos[3] = SMALL_TUPLE_EXT, arity, SMALL_INTEGER_EXT, op
    w.pos += 4


cdef inline bint _are_pid_and_alias(object sender, object alias) noexcept:
    return Py_TYPE(<PyObject *>sender) == PID and Py_TYPE(<PyObject *>alias) == REFERENCE
