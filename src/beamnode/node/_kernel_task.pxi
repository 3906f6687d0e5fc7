# The tasks that run processes: of another make than asyncio's, as "Extending asyncio" in Python's documentation allows.
#
# To everybody else a `Task` is a task: `asyncio.current_task`, `all_tasks`, `timeout`, `TaskGroup`, `wait` know it. What
# differs is what a process needs: it is made and stepped without a handle of the loop of its own, waits in `receive`
# without a callback, and tells its body how the code has ended (`Body.ended`).

from asyncio import InvalidStateError
from asyncio.tasks import _enter_task, _leave_task, _register_task, _unregister_task
from collections import deque
from contextvars import Context, copy_context
from types import CoroutineType

cdef object _enter = _enter_task
cdef object _leave = _leave_task

cdef bint _uncancel_takes_back = sys.version_info >= (3, 13)  # as asyncio's own

cdef int STEPS_PER_TURN = 256  # of tasks, before the loop looks for input again


async def _awaited(awaitable):
    return await awaitable


cdef object _coroutine_of(made):
    """What can be stepped; of a function that only says that it is an `async def`, any awaitable may come."""
    return made if hasattr(made, "send") and hasattr(made, "throw") else _awaited(made)


cdef class Runner:
    """Steps the tasks of one loop that are ready, in order; those that get ready meanwhile in the same turn of the loop,
    up to a bound."""

    cdef object _loop
    cdef object _ready
    cdef object _context  # that of handles: a task has its own
    cdef bint _scheduled

    def __init__(self, loop):
        self._loop = loop
        self._ready = deque()
        self._context = Context()

    cdef int add(self, Task task) except -1:
        self._ready.append(task)
        if not self._scheduled:
            self._loop.call_soon(self.run, context=self._context)
            self._scheduled = True
        return 0

    def run(self):
        """Of the loop."""
        cdef int left = STEPS_PER_TURN
        ready = self._ready
        try:
            while left and ready:
                left -= 1
                (<Task>ready.popleft()).step(None)
        finally:  # also after a KeyboardInterrupt in one of them
            self._scheduled = False
            if ready:
                self._loop.call_soon(self.run, context=self._context)
                self._scheduled = True

    def start(self, body, function, args):
        """A task that runs `await function(*args)` for `body`, from the next turn of the loop on."""
        cdef Task task = Task.__new__(Task)
        task._loop = self._loop
        task._runner = self
        task._body = body
        task._pid = body.process.pid
        task._function = function
        task._args = args
        context = copy_context()
        PyContext_Enter(context)
        try:
            _current.set(body)
        finally:
            PyContext_Exit(context)
        task._context = context
        _register_task(task)
        self.add(task)
        return task


cdef class Task:
    """Runs the code of one process. Its result is None; its methods are those of `asyncio.Task`."""

    cdef object __weakref__
    cdef public bint _asyncio_future_blocking
    cdef readonly object _loop
    cdef readonly object _coro
    cdef object _awaited
    cdef readonly bint _must_cancel
    cdef Runner _runner
    cdef object _body
    cdef object _pid
    cdef object _function
    cdef object _args
    cdef object _context
    cdef readonly object _callbacks
    cdef object _exception
    cdef object _cancel_message
    cdef object _cancelled  # the exception that ends its wait in `receive`: made by the first `cancel`, as a future's
    cdef object _name
    cdef int _cancels
    cdef bint _steps  # its code runs now
    cdef bint _receives  # it waits in `receive`
    cdef bint _done
    cdef object _gate  # what its process has to wait for before it goes on, or None
    cdef bint _parked  # it waits there

    @property
    def _fut_waiter(self):
        """What it waits for, under the name that debuggers and anyio look for."""
        return self if self._receives else self._awaited

    def __repr__(self):
        return f"<beamnode Task {'done' if self._done else 'pending'} name={self.get_name()!r} coro={self._coro!r}>"

    # --- Running ------------------------------------------------------------------------------------------------------

    cdef int step(self, error) except -1:
        if self._done:
            return 0
        if self._gate is not None and error is None and self.park():
            return 0
        waiter = self._awaited
        if waiter is not None:
            self._awaited = None
            if error is None and type(waiter) is Waiter:
                error = (<Waiter>waiter)._cancelled
                (<Waiter>waiter)._cancelled = None
        elif self._cancelled is not None:
            error, self._cancelled = self._cancelled, None
        if self._must_cancel:
            if not isinstance(error, _cancelled_error):
                error = self.make_cancelled()
            self._must_cancel = False
        PyContext_Enter(self._context)
        try:
            _enter(self._loop, self)
            self._steps = True
            try:
                self.run(error)
            finally:
                self._steps = False
                _leave(self._loop, self)
        finally:
            PyContext_Exit(self._context)
        return 0

    cdef int run(self, error) except -1:
        """One step of the coroutine, in its context; what it waits for then, or its end."""
        cdef PyObject *result = NULL
        cdef int returns
        try:
            if self._coro is None:
                if error is not None:
                    raise error
                function, args, self._function, self._args = self._function, self._args, None, None
                self._body.check_alive()  # it may have been ended before its first step
                made = function(*args)
                self._coro = made if type(made) is CoroutineType else _coroutine_of(made)
            if error is None:
                returns = bn_send(self._coro, &result)
                yielded = <object>result
                Py_DECREF(result)
            else:
                returns = 0
                try:
                    yielded = self._coro.throw(error)
                except StopIteration:
                    returns = 1
        except (Exception, SystemExit, _cancelled_error) as failure:  # `sys.exit()` ends the process, not the node
            self.end(failure)
            return 0
        except KeyboardInterrupt as failure:
            self._exception = failure
            self.end(failure)
            raise
        except BaseException as failure:  # is kept for who awaits the task, and ends nobody else's step
            self._exception = failure
            self.end(failure)
            return 0
        if returns:
            self.end(None)
        else:
            self.wait_for(yielded)
        return 0

    cdef int end(self, error) except -1:
        body, self._body = self._body, None
        try:
            body.ended(error)
        finally:
            self._done = True
            if self._gate is not None:
                self._gate.waiting.pop(self.unpark, None)
            self._coro = self._awaited = self._function = self._args = self._gate = None
            _unregister_task(self)
            callbacks, self._callbacks = self._callbacks, None
            for callback, context in callbacks or ():
                self._loop.call_soon(callback, self, context=context)
        return 0

    cdef int wait_for(self, yielded) except -1:
        cdef Waiter waiter
        if yielded is self and not self._asyncio_future_blocking:  # of `receive`
            if self._must_cancel:
                self._must_cancel = False
                self._cancelled = self.make_cancelled()
                self._runner.add(self)
            else:
                self._receives = True
            return 0
        if type(yielded) is Waiter:
            waiter = <Waiter>yielded
            waiter._asyncio_future_blocking = False
            waiter._task = self
        elif yielded is None:  # `asyncio.sleep(0)`: all others first, and the loop itself
            self._loop.call_soon(self.step_soon, None, context=self._runner._context)
            return 0
        else:
            blocking = getattr(yielded, "_asyncio_future_blocking", None)
            problem = None
            if blocking is None:
                problem = f"{self!r} got a bad yield: {yielded!r}"
            elif yielded is self:
                self._asyncio_future_blocking = False  # else its next wait in `receive` would be taken for another try
                problem = f"{self!r} cannot await itself"
            elif yielded.get_loop() is not self._loop:
                problem = f"{self!r} got a future attached to a different loop: {yielded!r}"
            elif not blocking:
                problem = f"yield was used instead of yield from in {self!r} with {yielded!r}"
            if problem is not None:
                self._loop.call_soon(self.step_soon, RuntimeError(problem), context=self._runner._context)
                return 0
            yielded._asyncio_future_blocking = False
            yielded.add_done_callback(self.wake, context=self._runner._context)
        self._awaited = yielded
        if self._must_cancel and yielded.cancel(self._cancel_message):
            self._must_cancel = False
        return 0

    def hold(self, gate):
        """Do not go on after the next wait before `gate` has room; what fails there, and who cancels, come through."""
        if not self._done:
            self._gate = gate

    def let_go(self, gate):
        """It has room, or need not be waited for."""
        if self._gate is gate:
            self._gate = None

    cdef bint park(self) except -1:
        """Whether it has to wait. Then what it was woken by stays as it is, for the step that comes."""
        waiter = self._awaited
        if self._must_cancel or self._cancelled is not None:
            return False
        if type(waiter) is Waiter and (<Waiter>waiter)._cancelled is not None:
            return False
        gate = self._gate
        if gate.has_room:
            self._gate = None
            return False
        if not self._parked:
            self._parked = True
            gate.waiting[self.unpark] = None
        return True

    def unpark(self):
        """Of the gate: look again."""
        if self._parked:
            self._parked = False
            self._runner.add(self)

    def resume(self, bint at_once):
        """Let it go on where it waits in `receive`; False where it does not."""
        if not self._receives:
            return False
        self._receives = False
        if at_once:
            self.step(None)
        else:
            self._runner.add(self)
        return True

    def step_soon(self, error):
        """Of the loop."""
        self.step(error)

    def wake(self, future):
        """Of the loop: what was waited for is done."""
        failure = None
        try:
            future.result()
        except BaseException as error:
            failure = error
        self.step(failure)  # not in the `except`: what the code raises later does not come of this

    cdef object make_cancelled(self):
        message, self._cancel_message = self._cancel_message, None
        return _cancelled_error() if message is None else _cancelled_error(message)

    # --- As asyncio.Task ----------------------------------------------------------------------------------------------

    def cancel(self, msg=None):
        if self._done:
            return False
        self._cancels += 1
        if self._awaited is not None and self._awaited.cancel(msg):
            return True
        self._cancel_message = msg
        if self._receives:
            self._cancelled = self.make_cancelled()
            self.resume(False)
        else:
            self._must_cancel = True
            self.unpark()
        return True

    def cancelling(self):
        return self._cancels

    def uncancel(self):
        if self._cancels > 0:
            self._cancels -= 1
            if self._cancels == 0 and _uncancel_takes_back:
                self._must_cancel = False
        return self._cancels

    def done(self):
        return self._done

    def cancelled(self):
        return False  # a cancelled process has ended, with that reason

    def result(self):
        if not self._done:
            raise InvalidStateError("Result is not set.")
        if self._exception is not None:
            raise self._exception

    def exception(self):
        if not self._done:
            raise InvalidStateError("Exception is not set.")
        return self._exception

    def get_loop(self):
        return self._loop

    def get_coro(self):
        return self._coro

    def get_context(self):
        return self._context

    def get_name(self):
        return f"beamnode {self._pid!r}" if self._name is None else self._name

    def set_name(self, name):
        self._name = str(name)

    def get_stack(self, *, limit=None):
        frame = None if self._coro is None else self._coro.cr_frame
        return [] if frame is None or limit == 0 else [frame]

    def add_done_callback(self, callback, *, context=None):
        if context is None:
            context = copy_context()
        if self._done:
            self._loop.call_soon(callback, self, context=context)
        elif self._callbacks is None:
            self._callbacks = [(callback, context)]
        else:
            self._callbacks.append((callback, context))

    def remove_done_callback(self, callback):
        before = self._callbacks or []
        self._callbacks = [entry for entry in before if entry[0] != callback]
        return len(before) - len(self._callbacks)

    def __await__(self):
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    __iter__ = __await__
