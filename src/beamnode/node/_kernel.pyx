# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""`receive` in C: what `functions.receive` and `LoopBody.receive` do, faster, for a message that is there already."""

import warnings

from beamnode.core.process import NOTHING
from beamnode.node import functions
from beamnode.node.body import MESSAGES_PER_TURN
from beamnode.node.current import current

cdef extern from *:
    """
    /* What `await` calls: with these in its slots a message is handed over without an exception being raised through
       Cython, which would make a traceback for it. On 3.11 am_send is asked, from 3.12 on tp_iternext. */
    static PyObject *bn_next(PyObject *receive, PyObject *(*take)(PyObject *, int *)) {
        int taken = 0;
        PyObject *result = take(receive, &taken);
        if (!taken) return result;
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        Py_DECREF(result);
        if (stop != NULL) { PyErr_SetObject(PyExc_StopIteration, stop); Py_DECREF(stop); }
        return NULL;
    }
    static PyObject *(*bn_take)(PyObject *, int *);
    static PyObject *bn_iternext(PyObject *receive) { return bn_next(receive, bn_take); }
    static PySendResult bn_am_send(PyObject *receive, PyObject *value, PyObject **result) {
        int taken = 0;
        if (value == Py_None) {
            *result = bn_take(receive, &taken);
        } else {
            *result = PyObject_CallMethod(receive, "send", "O", value);
        }
        if (taken) return PYGEN_RETURN;
        if (*result != NULL) return PYGEN_NEXT;
        return _PyGen_FetchStopIterationValue(result) == 0 ? PYGEN_RETURN : PYGEN_ERROR;
    }
    static void bn_fill_slots(PyObject *type, void *take) {
        bn_take = (PyObject *(*)(PyObject *, int *))take;
        ((PyTypeObject *)type)->tp_iternext = bn_iternext;
        ((PyTypeObject *)type)->tp_as_async->am_send = bn_am_send;
        PyType_Modified((PyTypeObject *)type);
    }
    """
    void bn_fill_slots(object, void *)

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident()

__all__ = ["receive"]

cdef long _messages_per_turn = MESSAGES_PER_TURN
cdef object _nothing = NOTHING
cdef object _current = current
cdef object _slow = functions.receive


cdef class Receive:
    """What `receive` gives. Nothing happens before it is awaited; then it takes, or becomes `LoopBody.receive`."""

    cdef object body
    cdef object match
    cdef object timeout
    cdef object coroutine  # that one, once it is needed
    cdef bint done

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """As of a coroutine."""
        if self.coroutine is None:
            message = self.taken()
            if message is not _nothing:
                raise StopIteration(message)
        return self.coroutine.send(value)

    cdef object taken(self):
        """The message, if there is one to take at once; else NOTHING, and `coroutine` is there to go on with."""
        body = self.body
        if self.done:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.done = True
        if self.match is None and body.taken < _messages_per_turn:
            process = body.process
            if process.exit_reason is _nothing:
                mailbox = process.mailbox
                messages = mailbox.messages
                if messages:
                    body.taken += 1
                    mailbox.looked_with = None
                    return messages.popleft()
        self.coroutine = body.receive(self.match, self.timeout)
        return _nothing

    def __del__(self):
        if not self.done:
            warnings.warn("coroutine 'receive' was never awaited", RuntimeWarning, stacklevel=1)

    def throw(self, *exception):
        """As of a coroutine."""
        if self.coroutine is None:
            if self.done:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self.done = True
            self.coroutine = self.body.receive(self.match, self.timeout)
        return self.coroutine.throw(*exception)

    def close(self):
        """As of a coroutine."""
        self.done = True
        if self.coroutine is not None:
            self.coroutine.close()


cdef object _next(Receive receive, int *taken):
    if receive.coroutine is None:
        message = receive.taken()
        if message is not _nothing:
            taken[0] = 1
            return message
    return receive.coroutine.send(None)


bn_fill_slots(Receive, <void *>_next)


def receive(match=None, *, timeout=None):
    cdef Receive made
    body = _current.get()
    if body is None or not body.on_loop or body.runtime.thread != PyThread_get_thread_ident():
        return _slow(match, timeout=timeout)
    made = Receive.__new__(Receive)
    made.body = body
    made.match = match
    made.timeout = timeout
    return made


receive.__doc__ = _slow.__doc__
