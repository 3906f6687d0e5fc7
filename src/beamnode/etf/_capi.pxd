# What the kernel needs of C and of CPython's C API, declared so that Cython neither counts references nor checks errors:
# every reference is a bare `PyObject *`, and a NULL is passed on by hand. All of it is inline C, alike on 3.11 to 3.13.

from cpython.object cimport PyObject, PyTypeObject

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #include <structmember.h>

    /* --- numbers in network order; compilers make one load and one swap of each --- */

    static inline uint32_t bn_load16(const unsigned char *p) { return (uint32_t)p[0] << 8 | p[1]; }
    static inline uint32_t bn_load32(const unsigned char *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    static inline uint64_t bn_load64(const unsigned char *p) {
        return (uint64_t)bn_load32(p) << 32 | bn_load32(p + 4);
    }
    static inline uint64_t bn_load64_little(const unsigned char *p) {
        return (uint64_t)p[7] << 56 | (uint64_t)p[6] << 48 | (uint64_t)p[5] << 40 | (uint64_t)p[4] << 32
            | (uint64_t)p[3] << 24 | (uint64_t)p[2] << 16 | (uint64_t)p[1] << 8 | p[0];
    }
    static inline double bn_load_double(const unsigned char *p) {
        uint64_t bits = bn_load64(p); double value; memcpy(&value, &bits, 8); return value;
    }
    static inline void bn_store16(unsigned char *p, uint32_t v) { p[0] = v >> 8 & 255; p[1] = v & 255; }
    static inline void bn_store32(unsigned char *p, uint32_t v) {
        p[0] = v >> 24; p[1] = v >> 16 & 255; p[2] = v >> 8 & 255; p[3] = v & 255;
    }
    static inline void bn_store64(unsigned char *p, uint64_t v) {
        bn_store32(p, (uint32_t)(v >> 32)); bn_store32(p + 4, (uint32_t)v);
    }
    static inline void bn_store_double(unsigned char *p, double value) {
        uint64_t bits; memcpy(&bits, &value, 8); bn_store64(p, bits);
    }

    /* --- short pieces of bytes, without a call --- */

    static inline uint64_t bn_first_word(const unsigned char *p, Py_ssize_t size) { /* with bn_last_word all of 16 bytes */
        return size >= 8 ? bn_load64_little(p) : size >= 4 ? bn_load32(p) : size ? (uint64_t)p[0] << 8 | p[size >> 1] : 0;
    }
    static inline uint64_t bn_last_word(const unsigned char *p, Py_ssize_t size) {
        p += size;
        return size >= 8 ? bn_load64_little(p - 8) : size >= 4 ? bn_load32(p - 4) : size ? p[-1] : 0;
    }
    /* A hash of a name, for tables that only remember: collisions cost a look-up, nothing else. */
    static inline uint64_t bn_hash(const unsigned char *p, Py_ssize_t size, uint64_t first, uint64_t last) {
        uint64_t h = (first ^ (uint64_t)size << 56) * 0x9E3779B97F4A7C15ULL;
        h = (h ^ h >> 32 ^ last) * 0xD6E8FEB86659FD93ULL;
        for (Py_ssize_t at = 8; at + 8 < size; at += 8) h = (h ^ h >> 32 ^ bn_load64_little(p + at)) * 0xD6E8FEB86659FD93ULL;
        return h ^ h >> 32;
    }
    static inline void bn_copy(unsigned char *to, const unsigned char *from, Py_ssize_t size) {
        if (size > 32) {
            memcpy(to, from, (size_t)size);
        } else if (size >= 16) {
            unsigned char a[16], b[16];
            memcpy(a, from, 16); memcpy(b, from + size - 16, 16); memcpy(to, a, 16); memcpy(to + size - 16, b, 16);
        } else if (size >= 8) {
            uint64_t a, b;
            memcpy(&a, from, 8); memcpy(&b, from + size - 8, 8); memcpy(to, &a, 8); memcpy(to + size - 8, &b, 8);
        } else if (size >= 4) {
            uint32_t a, b;
            memcpy(&a, from, 4); memcpy(&b, from + size - 4, 4); memcpy(to, &a, 4); memcpy(to + size - 4, &b, 4);
        } else {
            for (Py_ssize_t i = 0; i < size; i++) to[i] = from[i];
        }
    }

    /* --- integers: whether `o` (an int) fits into a long long, and which one it is --- */

    static inline int bn_as_int64(PyObject *o, long long *value) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)o)) {
            *value = (long long)PyUnstable_Long_CompactValue((PyLongObject *)o);
            return 1;
        }
    #else
        Py_ssize_t size = Py_SIZE(o);
        if (size >= -1 && size <= 1) {
            *value = size ? (long long)size * ((PyLongObject *)o)->ob_digit[0] : 0;
            return 1;
        }
    #endif
        int overflow;
        *value = PyLong_AsLongLongAndOverflow(o, &overflow);
        return !overflow;
    }
    static inline int bn_is_negative(PyObject *o) { return _PyLong_Sign(o) < 0; }
    static inline Py_ssize_t bn_bits(PyObject *o) { return (Py_ssize_t)_PyLong_NumBits(o); }
    static inline int bn_as_bytes(PyObject *o, unsigned char *to, Py_ssize_t size) { /* 0, or -1 with an error */
    #if PY_VERSION_HEX >= 0x030D0000
        return _PyLong_AsByteArray((PyLongObject *)o, to, (size_t)size, 1, 0, 1);
    #else
        return _PyLong_AsByteArray((PyLongObject *)o, to, (size_t)size, 1, 0);
    #endif
    }
    static inline PyObject *bn_from_bytes(const unsigned char *from, Py_ssize_t size) {
        return _PyLong_FromByteArray(from, (size_t)size, 1, 0);
    }

    /* --- objects --- */

    #define BN_SLOT(o, offset) (*(PyObject **)((char *)(o) + (offset)))
    static inline PyObject *bn_slot(PyObject *o, Py_ssize_t offset) { return BN_SLOT(o, offset); } /* borrowed, or NULL */
    static inline void bn_set_slot(PyObject *o, Py_ssize_t offset, PyObject *value) { /* steals; for new objects */
        BN_SLOT(o, offset) = value;
    }
    static inline Py_ssize_t bn_slot_offset(PyObject *descriptor) { /* of a member of `__slots__`; -1: it is none */
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return -1;
        PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    static inline PyObject *bn_new(PyTypeObject *type) { return type->tp_alloc(type, 0); }
    static inline int bn_same_iter(PyObject *o, PyTypeObject *base) { return Py_TYPE(o)->tp_iter == base->tp_iter; }
    static inline int bn_is_plain_int(PyObject *o) { /* an int, or of a subclass that does not say what int() gives */
        return PyLong_Check(o) && Py_TYPE(o)->tp_as_number->nb_int == PyLong_Type.tp_as_number->nb_int;
    }
    static inline PyObject **bn_tuple_items(PyObject *o) { return ((PyTupleObject *)o)->ob_item; }
    static inline PyObject **bn_list_items(PyObject *o) { return ((PyListObject *)o)->ob_item; }
    static inline PyObject *bn_new_dict(Py_ssize_t size) { /* with room, but not for more than a peer may pretend */
        return size <= 5 ? PyDict_New() : _PyDict_NewPresized(size < 1024 ? size : 1024);
    }
    """
    ctypedef unsigned int uint32_t
    ctypedef unsigned long long uint64_t

    uint32_t bn_load16(const unsigned char *) noexcept nogil
    uint32_t bn_load32(const unsigned char *) noexcept nogil
    uint64_t bn_load64(const unsigned char *) noexcept nogil
    uint64_t bn_load64_little(const unsigned char *) noexcept nogil
    double bn_load_double(const unsigned char *) noexcept nogil
    void bn_store16(unsigned char *, uint32_t) noexcept nogil
    void bn_store32(unsigned char *, uint32_t) noexcept nogil
    void bn_store64(unsigned char *, uint64_t) noexcept nogil
    void bn_store_double(unsigned char *, double) noexcept nogil
    uint64_t bn_first_word(const unsigned char *, Py_ssize_t) noexcept nogil
    uint64_t bn_last_word(const unsigned char *, Py_ssize_t) noexcept nogil
    uint64_t bn_hash(const unsigned char *, Py_ssize_t, uint64_t, uint64_t) noexcept nogil
    void bn_copy(unsigned char *, const unsigned char *, Py_ssize_t) noexcept nogil

    bint bn_as_int64(PyObject *, long long *) noexcept
    bint bn_is_negative(PyObject *) noexcept
    Py_ssize_t bn_bits(PyObject *) noexcept
    int bn_as_bytes(PyObject *, unsigned char *, Py_ssize_t) noexcept
    PyObject *bn_from_bytes(const unsigned char *, Py_ssize_t) noexcept
    PyObject *bn_slot(PyObject *, Py_ssize_t) noexcept
    void bn_set_slot(PyObject *, Py_ssize_t, PyObject *) noexcept
    Py_ssize_t bn_slot_offset(PyObject *) noexcept
    PyObject *bn_new(PyTypeObject *) noexcept
    bint bn_same_iter(PyObject *, PyTypeObject *) noexcept
    bint bn_is_plain_int(PyObject *) noexcept
    PyObject **bn_tuple_items(PyObject *) noexcept
    PyObject **bn_list_items(PyObject *) noexcept
    PyObject *bn_new_dict(Py_ssize_t) noexcept

cdef extern from "Python.h":
    ctypedef struct Py_buffer:
        void *buf
        Py_ssize_t len
    int PyBUF_SIMPLE
    int PyBUF_READ
    PyObject *PyMemoryView_FromMemory(char *, Py_ssize_t, int) noexcept
    int PyObject_GetBuffer(PyObject *, Py_buffer *, int) noexcept
    void PyBuffer_Release(Py_buffer *) noexcept

    Py_ssize_t PY_SSIZE_T_MAX
    void *PyMem_Calloc(size_t, size_t) noexcept
    void *PyMem_Realloc(void *, size_t) noexcept
    void PyMem_Free(void *) noexcept

    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False
    PyTypeObject PyLong_Type
    PyTypeObject PyFloat_Type
    PyTypeObject PyBytes_Type
    PyTypeObject PyByteArray_Type
    PyTypeObject PyMemoryView_Type
    PyTypeObject PyUnicode_Type
    PyTypeObject PyTuple_Type
    PyTypeObject PyList_Type
    PyTypeObject PyDict_Type
    PyTypeObject PyBool_Type

    PyTypeObject *Py_TYPE(PyObject *) noexcept
    void Py_INCREF(PyObject *) noexcept
    void Py_DECREF(PyObject *) noexcept
    void Py_XDECREF(PyObject *) noexcept
    PyObject *PyExc_Exception
    PyObject *PyErr_Occurred() noexcept
    PyObject *PyErr_NoMemory() noexcept
    bint PyErr_ExceptionMatches(PyObject *) noexcept
    void PyErr_Clear() noexcept
    int PyGC_Disable() noexcept
    int PyGC_Enable() noexcept
    PyObject *PyObject_CallOneArg(PyObject *, PyObject *) noexcept

    bint PyTuple_Check(PyObject *) noexcept
    bint PyList_Check(PyObject *) noexcept
    bint PyFloat_Check(PyObject *) noexcept
    PyObject *PyLong_FromLong(long) noexcept
    Py_ssize_t PyLong_AsSsize_t(PyObject *) noexcept
    PyObject *PyLong_FromLongLong(long long) noexcept
    PyObject *PyLong_FromUnsignedLongLong(unsigned long long) noexcept
    PyObject *PyNumber_Negative(PyObject *) noexcept
    PyObject *PyNumber_Positive(PyObject *) noexcept
    PyObject *PyFloat_FromDouble(double) noexcept
    double PyFloat_AS_DOUBLE(PyObject *) noexcept

    PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t) noexcept
    char *PyBytes_AS_STRING(PyObject *) noexcept
    Py_ssize_t PyBytes_GET_SIZE(PyObject *) noexcept
    int _PyBytes_Resize(PyObject **, Py_ssize_t) noexcept
    char *PyByteArray_AS_STRING(PyObject *) noexcept
    Py_ssize_t PyByteArray_GET_SIZE(PyObject *) noexcept
    int PyByteArray_Resize(PyObject *, Py_ssize_t) noexcept

    PyObject *PyUnicode_DecodeUTF8(const char *, Py_ssize_t, const char *) noexcept
    PyObject *PyUnicode_DecodeLatin1(const char *, Py_ssize_t, const char *) noexcept
    PyObject *PyUnicode_AsUTF8String(PyObject *) noexcept
    bint PyUnicode_IS_COMPACT_ASCII(PyObject *) noexcept
    void *PyUnicode_DATA(PyObject *) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *) noexcept

    PyObject *PyTuple_New(Py_ssize_t) noexcept
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t) noexcept
    void PyTuple_SET_ITEM(PyObject *, Py_ssize_t, PyObject *) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *) noexcept
    PyObject *PyList_New(Py_ssize_t) noexcept
    PyObject *PyList_AsTuple(PyObject *) noexcept
    PyObject *PyList_GET_ITEM(PyObject *, Py_ssize_t) noexcept
    void PyList_SET_ITEM(PyObject *, Py_ssize_t, PyObject *) noexcept
    Py_ssize_t PyList_GET_SIZE(PyObject *) noexcept
    PyObject *PyDict_GetItemWithError(PyObject *, PyObject *) noexcept
    int PyDict_SetItem(PyObject *, PyObject *, PyObject *) noexcept
    Py_ssize_t PyDict_Size(PyObject *) noexcept
    Py_ssize_t PyObject_Hash(PyObject *) noexcept
    bint PyDict_Next(PyObject *, Py_ssize_t *, PyObject **, PyObject **) noexcept
