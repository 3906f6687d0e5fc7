"""What OTP and Elixir keep in the dictionary of a process: where it comes from, and what it is called.

Source: proc_lib.erl; Elixir's Task.
"""

from typing import Final

from beamnode.etf import Atom

ANCESTORS: Final = Atom("$ancestors")  # the parent and its ancestors, each by its name or its pid
CALLERS: Final = Atom("$callers")  # of a task: who wanted it, and who had wanted that
INITIAL_CALL: Final = Atom("$initial_call")  # {Module, Function, Arity}
LABEL: Final = Atom("$process_label")
