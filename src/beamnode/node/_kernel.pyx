# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Processes on the loop, in C: `receive`, and the tasks that run them.

`receive` does what `functions.receive` and `LoopBody.receive` do, faster, for a message that is there already.
"""

import asyncio
import sys
import warnings

from beamnode.core.process import NOTHING
from beamnode.errors import ProcessExit
from beamnode.node.current import current

cdef extern from *:
    """
    /* What `await` calls: with these in its slots a message is handed over without an exception being raised through
       Cython, which would make a traceback for it. On 3.11 am_send is asked, from 3.12 on tp_iternext. `step` gives what
       to yield, or with *returns what `await` is to give. */
    static PyObject *(*bn_step)(PyObject *, int *returns);
    static PyObject *bn_iternext(PyObject *receive) {
        int returns = 0;
        PyObject *result = bn_step(receive, &returns);
        if (result == NULL || !returns) return result;
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
        Py_DECREF(result);
        if (stop != NULL) { PyErr_SetObject(PyExc_StopIteration, stop); Py_DECREF(stop); }
        return NULL;
    }
    static PySendResult bn_am_send(PyObject *receive, PyObject *value, PyObject **result) {
        int returns = 0;
        *result = bn_step(receive, &returns); /* a task sends None and nothing else */
        return *result == NULL ? PYGEN_ERROR : returns ? PYGEN_RETURN : PYGEN_NEXT;
    }
    static void bn_fill_slots(PyObject *type, void *step) {
        bn_step = (PyObject *(*)(PyObject *, int *))step;
        ((PyTypeObject *)type)->tp_iternext = bn_iternext;
        ((PyTypeObject *)type)->tp_as_async->am_send = bn_am_send;
        PyType_Modified((PyTypeObject *)type);
    }
    static int bn_send(PyObject *coroutine, PyObject **result) { /* -1: raised, 0: yielded, 1: returned */
        PySendResult sent = PyIter_Send(coroutine, Py_None, result);
        return sent == PYGEN_ERROR ? -1 : sent == PYGEN_RETURN;
    }
    """
    void bn_fill_slots(object, void *)
    int bn_send(object, PyObject **) except -1
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1

cdef extern from "Python.h":
    ctypedef struct PyObject
    unsigned long PyThread_get_thread_ident()
    void Py_DECREF(PyObject *)

__all__ = ["Runner", "Task", "Waiter", "receive"]

cdef object _nothing = NOTHING
cdef object _current = current
cdef object _cancelled_error = asyncio.CancelledError
cdef object _current_task = asyncio.current_task
cdef bint _some_are_eager = sys.version_info >= (3, 12)
cdef object _slow = None  # `functions.receive`
cdef long _messages_per_turn = 0


def set_up(slow, long messages_per_turn):
    """`receiving.py` tells what this module cannot import: they are imported after it."""
    global _slow, _messages_per_turn
    _slow = slow
    _messages_per_turn = messages_per_turn


cdef class Waiter:
    """As `waiting.Waiter`."""

    cdef object _loop
    cdef object _callback
    cdef object _context
    cdef object _cancelled
    cdef Task _task  # who waits, if it is one of ours: then there is no callback
    cdef public bint _asyncio_future_blocking

    def __init__(self, loop):
        self._loop = loop

    def __await__(self):
        self._asyncio_future_blocking = True
        yield self

    def wake(self, bint at_once=False):
        """Let the task go on; nothing if it has been woken."""
        task = self._task
        if task is not None:
            self._task = None
            if at_once:
                task.step(None)
            else:
                task._runner.add(task)
            return
        callback = self._callback
        if callback is None:
            return
        self._callback = None
        if at_once:
            self._context.run(callback, self)
        else:
            self._loop.call_soon(callback, self, context=self._context)

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context):
        self._callback = callback
        self._context = context

    def cancel(self, msg=None):
        if self._callback is None and self._task is None:
            return False
        self._cancelled = _cancelled_error() if msg is None else _cancelled_error(msg)
        self.wake()
        return True

    def result(self):
        cancelled = self._cancelled
        if cancelled is not None:
            self._cancelled = None
            raise cancelled


include "_kernel_task.pxi"


cdef enum:
    NEW
    WAITING   # the task has been given the body's Waiter
    HANDED_ON  # to the coroutine of `LoopBody.receive`
    DONE


cdef class Receive:
    """What `receive` gives. Nothing happens before it is awaited; then it does what `LoopBody.receive` does.

    It knows how to wait for any message, for ever; for what else is asked it hands on to that coroutine.
    """

    cdef object body
    cdef object match
    cdef object timeout
    cdef object coroutine
    cdef int state

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        """As of a coroutine."""
        cdef int returns = 0
        result = _step(self, &returns)
        if returns:
            raise StopIteration(result)
        return result

    cdef object taken(self):
        """The next message, or NOTHING. Raises ProcessExit."""
        process = self.body.process
        if process.exit_reason is not _nothing:
            raise ProcessExit(process.exit_reason)
        mailbox = process.mailbox
        if not mailbox:
            return _nothing
        mailbox.looked_with = None
        return mailbox.popleft()

    cdef object wait(self):
        """What a task is given to wait with: the process's own is given itself."""
        cdef Waiter waiter
        body = self.body
        body.waits = body.process.waiting = True
        self.state = WAITING
        task = body.task
        if type(task) is Task and (<Task>task)._steps and not (_some_are_eager and _current_task() is not task):
            return task  # an eager task may act for the process, in the middle of its step: that one gets a Waiter
        waiter = body.waiter
        waiter._asyncio_future_blocking = True
        return waiter

    cdef int end_wait(self) except -1:
        if self.state == WAITING:
            self.body.waits = self.body.process.waiting = False
        self.state = DONE
        return 0

    cdef object hand_on(self):
        self.state = HANDED_ON
        self.coroutine = self.body.receive(self.match, self.timeout)
        return self.coroutine

    def __del__(self):
        if self.state == NEW:
            warnings.warn("coroutine 'receive' was never awaited", RuntimeWarning, stacklevel=1)
        self.end_wait()

    def throw(self, *exception):
        """As of a coroutine."""
        if self.state == WAITING:
            self.end_wait()
            error = exception[1] if len(exception) > 1 and exception[1] is not None else exception[0]
            raise error
        if self.state != HANDED_ON:
            self.check_new()
            self.hand_on()
        return self.coroutine.throw(*exception)

    def close(self):
        """As of a coroutine."""
        if self.state == HANDED_ON:
            self.coroutine.close()
        self.end_wait()

    cdef int check_new(self) except -1:
        if self.state != NEW:
            raise RuntimeError("cannot reuse already awaited coroutine")
        return 0


cdef object _step(Receive receive, int *returns):
    cdef PyObject *result = NULL
    body = receive.body
    if receive.state == HANDED_ON:
        returns[0] = bn_send(receive.coroutine, &result)
        made = <object>result
        Py_DECREF(result)
        return made
    if receive.state == WAITING:
        receive.end_wait()
    else:
        receive.check_new()
        receive.state = DONE
        if receive.match is not None or receive.timeout is not None or body.taken >= _messages_per_turn or body.waits:
            receive.hand_on()
            return _step(receive, returns)
        body.taken += 1
    message = receive.taken()
    if message is not _nothing:
        returns[0] = 1
        return message
    body.taken = 0
    return receive.wait()


bn_fill_slots(Receive, <void *>_step)


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


