# --- The peer's atom cache --------------------------------------------------------------------------------------------

cdef enum:
    SEGMENTS = 8
    SEGMENT_SLOTS = 256
    KNOWN_TABLE_BYTES = 32

cdef class AtomCacheIn:
    """As `header.AtomCacheIn`. A segment is made when its first slot is filled: most connections use few."""

    cdef PyObject **segments[SEGMENTS]
    cdef Py_ssize_t characters_max
    # The last table without new entries: in a stream of messages, the next one is the same.
    cdef unsigned char known[KNOWN_TABLE_BYTES]
    cdef Py_ssize_t known_bytes
    cdef tuple known_atoms

    def __cinit__(self, limits):
        self.characters_max = limits.atom_characters_max
        self.known_atoms = ()

    def __dealloc__(self):
        cdef Py_ssize_t i, slot
        for i in range(SEGMENTS):
            if self.segments[i] != NULL:
                for slot in range(SEGMENT_SLOTS):
                    Py_XDECREF(self.segments[i][slot])
                PyMem_Free(self.segments[i])

    def read_table(self, bytes buffer, Py_ssize_t at, Py_ssize_t end):
        """The atoms of the table that begins at `at`, and the place after it: see `header.AtomCacheIn.read_table`."""
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(<PyObject *>buffer)
        cdef const unsigned char *place = data + at
        cdef tuple atoms = self.table(&place, data + end)
        return atoms, place - data

    cdef tuple table(self, const unsigned char **place, const unsigned char *end):
        """The table at the cursor, which moves past it."""
        cdef const unsigned char *p = place[0]
        cdef Py_ssize_t count, size
        if p >= end:
            raise ProtocolError("a distribution header without a table of atoms")
        count = p[0]
        if count == 0:
            place[0] = p + 1
            return ()
        size = 2 + (count >> 1) + count  # if it has no new entry
        if size == self.known_bytes and end - p >= size and memcmp(p, self.known, size) == 0:
            place[0] = p + size
            return self.known_atoms
        return self.new_table(place, end, count)

    cdef tuple new_table(self, const unsigned char **place, const unsigned char *end, Py_ssize_t count):
        cdef const unsigned char *begin = place[0]
        cdef const unsigned char *flags = begin + 1
        cdef const unsigned char *p = flags + (count >> 1) + 1
        cdef Py_ssize_t index, slot, length_bytes
        cdef int nibble
        cdef bint news = False
        cdef PyObject *atom
        cdef PyObject **segment
        if end - p < count:  # a byte an atom, at least
            raise ProtocolError("a distribution header that is longer than its frame")
        length_bytes = 2 if flags[count >> 1] >> (4 if count & 1 else 0) & 1 else 1
        atoms = []
        for index in range(count):
            nibble = flags[index >> 1] >> (4 if index & 1 else 0) & 15
            if p >= end:
                raise ProtocolError("a distribution header that is longer than its frame")
            slot = p[0]
            p += 1
            if nibble & 8:
                self.put(nibble & 7, slot, self.text(&p, end, length_bytes))
                news = True
            segment = self.segments[nibble & 7]
            atom = NULL if segment == NULL else segment[slot]
            if atom == NULL:
                slot |= (nibble & 7) << 8
                raise ProtocolError(f"a reference to slot {slot} of the atom cache, which is empty")
            atoms.append(<object>atom)
        known = tuple(atoms)
        if not news and p - begin <= KNOWN_TABLE_BYTES:
            memcpy(self.known, begin, p - begin)
            self.known_bytes = p - begin
            self.known_atoms = known
        place[0] = p
        return known

    cdef object text(self, const unsigned char **place, const unsigned char *end, Py_ssize_t length_bytes):
        """The atom whose length and text are at the cursor."""
        cdef const unsigned char *p = place[0]
        cdef Py_ssize_t size
        if end - p < length_bytes:
            raise ProtocolError("an atom in a distribution header that is longer than its frame")
        size = bn_load16(p) if length_bytes == 2 else p[0]
        p += length_bytes
        if end - p < size:
            raise ProtocolError("an atom in a distribution header that is longer than its frame")
        try:
            name = p[:size].decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("an atom in a distribution header that is not UTF-8") from error
        if len(name) > self.characters_max:
            raise LimitExceeded(f"an atom of {len(name)} characters", limit="atom_characters_max")
        place[0] = p + size
        return terms.Atom(name)

    cdef int put(self, Py_ssize_t number, Py_ssize_t slot, object atom) except -1:
        cdef PyObject **segment = self.segments[number]
        cdef PyObject *before
        cdef Py_ssize_t i
        if segment == NULL:
            segment = <PyObject **>PyMem_Realloc(NULL, SEGMENT_SLOTS * sizeof(PyObject *))
            if segment == NULL:
                raise MemoryError
            for i in range(SEGMENT_SLOTS):
                segment[i] = NULL
            self.segments[number] = segment
        self.known_bytes = 0  # one of its atoms may be the one that goes
        before = segment[slot]
        Py_INCREF(<PyObject *>atom)
        segment[slot] = <PyObject *>atom
        Py_XDECREF(before)
        return 0


# --- What arrives -----------------------------------------------------------------------------------------------------

@final  # so that its methods call each other directly
cdef class Inbound:
    """As `inbound.Inbound`."""

    cdef readonly long long frames_read  # without ticks
    cdef object slow        # an `inbound.Inbound`, for single frames
    cdef AtomCacheIn cache
    cdef Assembler assembler
    cdef object limits
    cdef bint strings
    cdef bint cached
    cdef bint fragmented
    cdef Py_ssize_t frame_bytes_max
    cdef bytearray held     # what has arrived from `at` on and was not handed over: the beginning of a frame, mostly
    cdef Py_ssize_t at
    cdef object inbox       # whose methods these are:
    cdef object node
    cdef object to_pid
    cdef object to_name
    cdef object to_alias
    cdef object monitor
    cdef object demonitor
    cdef object record

    def __init__(self, int_flags, *, strings, limits):
        self.cached = bool(int_flags & Flag.DIST_HDR_ATOM_CACHE)
        self.fragmented = bool(int_flags & Flag.FRAGMENTS)
        self.cache = AtomCacheIn(limits)
        self.assembler = Assembler(limits)
        self.slow = inbound.Inbound(int_flags, strings=strings, limits=limits, cache=self.cache)
        self.strings = strings
        self.limits = limits
        self.frame_bytes_max = limits.frame_bytes_max
        self.held = bytearray()
        self.at = 0
        self.inbox = None

    def receive_data(self, data):
        """Take the next bytes of the stream."""
        self.drop_read()
        self.held += data

    def next_record(self):
        """The next record, decoded only now; None until more has arrived. Raises a PeerError."""
        cdef Py_ssize_t length
        while PyByteArray_GET_SIZE(self.held) - self.at >= LENGTH_BYTES and self.lacking_bytes() == 0:
            length = self.length(<const unsigned char *>PyByteArray_AS_STRING(self.held) + self.at)
            self.at += LENGTH_BYTES + length
            if length:
                self.frames_read += 1
                frame = (<const char *>PyByteArray_AS_STRING(self.held))[self.at - length : self.at]
                record = self.slow.read_frame(frame, 0, length)
                if record is not None:
                    return record
        self.drop_read()
        return None

    def deliver(self, data, inbox):
        """Hand over all that is whole with these bytes. Raises a PeerError, or what the inbox raises."""
        cdef Py_buffer view
        cdef Py_ssize_t used = 0
        if inbox is not self.inbox:
            self.bind(inbox)
        if PyObject_GetBuffer(<PyObject *>data, &view, PyBUF_SIMPLE) < 0:
            raise BufferError(f"no bytes: {data!r}")
        try:
            try:
                self.complete_held(<const unsigned char *>view.buf, view.len, &used)
                self.take(<const unsigned char *>view.buf, view.len, &used)
            finally:
                if used < view.len:
                    self.held += (<const char *>view.buf)[used : view.len]
        finally:
            PyBuffer_Release(&view)

    cdef int complete_held(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *used) except -1:
        """Add to the frame that `held` begins with what it lacks, and hand it over when it is whole."""
        cdef Py_ssize_t lacking
        if self.at:
            self.drop_read()
        while PyByteArray_GET_SIZE(self.held):
            lacking = self.lacking_bytes()
            if lacking == 0:
                self.deliver_held()
                self.drop_read()
                continue
            lacking = min(lacking, size - used[0])
            if lacking == 0:
                break
            self.held += (<const char *>data)[used[0] : used[0] + lacking]
            used[0] += lacking
        return 0

    cdef Py_ssize_t lacking_bytes(self) except -1:
        """How many the frame that `held` begins with still needs, or its length does. Raises LimitExceeded."""
        cdef Py_ssize_t size = PyByteArray_GET_SIZE(self.held) - self.at
        if size >= LENGTH_BYTES:
            size -= LENGTH_BYTES + self.length(<const unsigned char *>PyByteArray_AS_STRING(self.held) + self.at)
        else:
            size -= LENGTH_BYTES
        return 0 if size >= 0 else -size

    cdef int deliver_held(self) except -1:
        """Hand over what is whole in `held`, which nobody else can resize meanwhile."""
        cdef bytearray held = self.held
        cdef Py_buffer view
        if PyObject_GetBuffer(<PyObject *>held, &view, PyBUF_SIMPLE) < 0:
            raise MemoryError
        try:
            self.take(<const unsigned char *>view.buf, view.len, &self.at)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int drop_read(self) except -1:
        """Keep of `held` only what is still to be handed over."""
        if self.at:
            if self.at == PyByteArray_GET_SIZE(self.held):
                self.held = bytearray()
            else:
                del self.held[:self.at]
            self.at = 0
        return 0

    cdef int bind(self, inbox) except -1:
        self.node = inbox.node
        self.to_pid = inbox.message_to_pid
        self.to_name = inbox.message_to_name
        self.to_alias = inbox.message_to_alias
        self.monitor = inbox.monitor
        self.demonitor = inbox.demonitor
        self.record = inbox.record
        self.inbox = inbox
        return 0

    cdef Py_ssize_t length(self, const unsigned char *data) except -1:
        """Of the frame that begins there. Raises LimitExceeded."""
        cdef Py_ssize_t length = bn_load32(data)
        if length > self.frame_bytes_max:
            raise LimitExceeded(
                f"a frame of {length} bytes, more than frame_bytes_max allows: {self.frame_bytes_max}",
                limit="frame_bytes_max",
            )
        return length

    cdef int take(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t *used) except -1:
        """Hand over the frames that are whole from `used` on, which is past each before anything is done with it."""
        cdef Py_ssize_t at = used[0]
        cdef Py_ssize_t length
        cdef const unsigned char *frame
        while size - at >= LENGTH_BYTES:
            length = self.length(data + at)
            if size - at - LENGTH_BYTES < length:
                break
            frame = data + at + LENGTH_BYTES
            at += LENGTH_BYTES + length
            used[0] = at
            if length == 0:
                continue  # a tick
            self.frames_read += 1
            if not (self.cached and self.hand_over(frame, frame + length)):
                record = self.slow.read_frame(frame[:length], 0, length)
                if record is not None:
                    self.record(record)
        return 0

    cdef bint hand_over(self, const unsigned char *p, const unsigned char *end) except -1:
        """Hand over a frame with a header of a kind known here. False: it has none, and nothing has happened."""
        cdef tuple atoms
        if end - p < 3 or p[0] != VERSION:
            return False
        if p[1] != NORMAL_HEADER:
            return self.fragmented and self.hand_over_fragment(p, end)
        p += 2
        atoms = self.cache.table(&p, end)
        if not self.hand_over_terms(p, end, atoms):  # the table is not read twice: it may replace what it refers to
            self.record(self.slow.read_terms((<const char *>p)[: end - p], 0, end - p, atoms))
        return True

    cdef bint hand_over_terms(self, const unsigned char *p, const unsigned char *end, tuple atoms) except -1:
        """Hand over a message or a monitor. False: it is neither, or an odd one, and nothing has happened."""
        cdef int op, arity
        if end - p < 4 or p[0] != SMALL_TUPLE_EXT or p[2] != SMALL_INTEGER_EXT:
            return False
        arity, op = p[1], p[3]
        p += 4
        if op == SEND_SENDER and arity == 3:
            return self.hand_over_send(p, end, atoms)
        if op == REG_SEND and arity == 4:
            return self.hand_over_reg_send(p, end, atoms)
        if op == ALIAS_SEND and arity == 3:
            return self.hand_over_alias_send(p, end, atoms)
        if op == ALTACT_SIG_SEND and arity == 4 and end - p > 2 and p[0] == SMALL_INTEGER_EXT and p[1] == ALTACT_ALIAS:
            return self.hand_over_alias_send(p + 2, end, atoms)
        if (op == MONITOR_P or op == DEMONITOR_P) and arity == 4:
            return self.hand_over_monitor(op, p, end, atoms)
        return False

    cdef bint hand_over_send(self, const unsigned char *p, const unsigned char *end, tuple atoms) except -1:
        cdef const unsigned char *to = p + PID_BYTES
        cdef uint32_t id, serial, creation
        if not _is_pid(p, end, atoms) or not _is_pid(to, end, atoms) or atoms[to[2]] is not self.node:
            return False
        id, serial, creation = bn_load32(to + 3), bn_load32(to + 7), bn_load32(to + 11)
        message = self.message(to + PID_BYTES, end, atoms)
        if message is NOTHING:
            return False
        self.to_pid(id, serial, creation, message)
        return True

    cdef bint hand_over_reg_send(self, const unsigned char *p, const unsigned char *end, tuple atoms) except -1:
        cdef const unsigned char *name = p + PID_BYTES + 2  # after the cookie that there was once
        if not _is_pid(p, end, atoms) or end - name < 2 or name[-2] != ATOM_CACHE_REF or name[0] != ATOM_CACHE_REF:
            return False
        if name[-1] >= len(atoms) or name[1] >= len(atoms):
            return False
        message = self.message(name + 2, end, atoms)
        if message is NOTHING:
            return False
        self.to_name(atoms[name[1]], message)
        return True

    cdef bint hand_over_alias_send(self, const unsigned char *p, const unsigned char *end, tuple atoms) except -1:
        cdef Reader r
        cdef PyObject *alias
        if not _is_pid(p, end, atoms) or end - p < PID_BYTES + 5:
            return False
        if p[PID_BYTES] != NEWER_REFERENCE_EXT or p[PID_BYTES + 3] != ATOM_CACHE_REF:
            return False
        p += PID_BYTES + 1
        if reader_init(&r, p, end - p, <PyObject *>atoms, self.strings, self.limits) < 0:
            return False
        alias = read_reference(&r)
        if alias == NULL:
            failed()
            return False
        to = <object>alias
        Py_DECREF(alias)
        message = self.message(r.pos, end, atoms)
        if message is NOTHING:
            return False
        self.to_alias(to, message)
        return True

    cdef bint hand_over_monitor(self, int op, const unsigned char *p, const unsigned char *end, tuple atoms) except -1:
        cdef Reader r
        if reader_init(&r, p, end - p, <PyObject *>atoms, self.strings, self.limits) < 0:
            return False
        sender = _term(&r)
        target = _term(&r)
        reference = _term(&r)
        if Py_TYPE(<PyObject *>sender) != PID or Py_TYPE(<PyObject *>reference) != REFERENCE:
            return False
        if Py_TYPE(<PyObject *>target) != PID and Py_TYPE(<PyObject *>target) != ATOM:
            return False
        if op == MONITOR_P:
            self.monitor(sender, target, reference)
        else:
            self.demonitor(sender, target, reference)
        return True

    cdef bint hand_over_fragment(self, const unsigned char *p, const unsigned char *end) except -1:
        cdef const unsigned char *begin = p + FRAGMENT_HEAD_BYTES
        cdef unsigned long long fragment_id
        cdef Sequence sequence
        if end - p < FRAGMENT_HEAD_BYTES:
            return False
        sequence_id, fragment_id = bn_load64(p + 2), bn_load64(p + 10)
        if p[1] == FIRST_FRAGMENT:
            self.begin_sequence(sequence_id, fragment_id, begin, end)
            return True
        if p[1] != NEXT_FRAGMENT:
            return False
        sequence = self.assembler.add(sequence_id, fragment_id, begin, end - begin)
        if sequence is not None:
            message = NO_PAYLOAD
            if carries_payload(sequence.control):
                message = sequence.message(self.strings, self.limits)
                if message is NOTHING:
                    message = self.slow.read_payload(sequence.whole(), sequence.atoms)
            self.record(from_wire(sequence.control, message))
        return True

    cdef int begin_sequence(
        self, object sequence_id, unsigned long long fragment_id, const unsigned char *p, const unsigned char *end
    ) except -1:
        cdef Reader r
        cdef const unsigned char *begin = p
        cdef Sequence sequence
        cdef tuple atoms = self.cache.table(&p, end)
        cdef Py_ssize_t control_bytes
        control = NOTHING
        if reader_init(&r, p, end - p, <PyObject *>atoms, self.strings, self.limits) == 0:
            control = _term(&r)
            control_bytes = r.pos - p
        if control is NOTHING:
            control, control_bytes = self.slow.read_term((<const char *>p)[: end - p], 0, end - p, atoms)
        p += control_bytes
        payload_follows = carries_payload(control)  # an error now rather than after all the fragments
        sequence = self.assembler.begin(sequence_id, fragment_id, FRAGMENT_HEAD_BYTES + (end - begin))
        if sequence is None:  # the first is the last
            message = NO_PAYLOAD
            if payload_follows:
                message = self.message(p, end, atoms)
                if message is NOTHING:
                    message = self.slow.read_payload((<const char *>p)[: end - p], atoms)
            self.record(from_wire(control, message))
            return 0
        sequence.control = control
        sequence.atoms = atoms
        sequence.add(p, end - p)
        return 0

    cdef object message(self, const unsigned char *p, const unsigned char *end, tuple atoms):
        """The term at `p`, with which a frame ends; NOTHING where the slow road has to read it, or to tell the error."""
        cdef Reader r
        if p >= end or reader_init(&r, p, end - p, <PyObject *>atoms, self.strings, self.limits) < 0:
            return NOTHING
        return _term(&r)


cdef object _term(Reader *r):
    """The next term, or NOTHING."""
    cdef PyObject *term = read_term(r)
    if term == NULL:
        failed()
        return NOTHING
    made = <object>term
    Py_DECREF(term)
    return made


cdef inline bint _is_pid(const unsigned char *p, const unsigned char *end, tuple atoms):
    """Whether a pid is there whose node is an atom of the header."""
    return end - p >= PID_BYTES and p[0] == NEW_PID_EXT and p[1] == ATOM_CACHE_REF and p[2] < len(atoms)
