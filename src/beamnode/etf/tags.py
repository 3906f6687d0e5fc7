"""The tags of the external term format: the first byte of every term. Source: `erl_ext_dist`, erts `external.h`."""

from __future__ import annotations

from typing import Final

VERSION: Final = 131  # before every whole term, not before the terms of a distribution message with a header

NATIVE_RECORD_EXT: Final = 67
NEW_FLOAT_EXT: Final = 70
BIT_BINARY_EXT: Final = 77
COMPRESSED: Final = 80
ATOM_CACHE_REF: Final = 82
NEW_PID_EXT: Final = 88
NEW_PORT_EXT: Final = 89
NEWER_REFERENCE_EXT: Final = 90
SMALL_INTEGER_EXT: Final = 97
INTEGER_EXT: Final = 98
FLOAT_EXT: Final = 99
ATOM_EXT: Final = 100
REFERENCE_EXT: Final = 101
PORT_EXT: Final = 102
PID_EXT: Final = 103
SMALL_TUPLE_EXT: Final = 104
LARGE_TUPLE_EXT: Final = 105
NIL_EXT: Final = 106
STRING_EXT: Final = 107
LIST_EXT: Final = 108
BINARY_EXT: Final = 109
SMALL_BIG_EXT: Final = 110
LARGE_BIG_EXT: Final = 111
NEW_FUN_EXT: Final = 112
EXPORT_EXT: Final = 113
NEW_REFERENCE_EXT: Final = 114
SMALL_ATOM_EXT: Final = 115
MAP_EXT: Final = 116
ATOM_UTF8_EXT: Final = 118
SMALL_ATOM_UTF8_EXT: Final = 119
V4_PORT_EXT: Final = 120
LOCAL_EXT: Final = 121

REFERENCE_WORDS_MAX: Final = 5  # OTP: ERTS_MAX_REF_NUMBERS; six words are `badarg` in 25, 27 and 29
FREE_VARIABLES_MAX: Final = 255  # OTP: MAX_ARG
ARITY_MAX: Final = 255  # an EXPORT_EXT of arity 256 crashes the virtual machine of OTP 27

CONTAINERS: Final = (
    LARGE_TUPLE_EXT,
    LIST_EXT,
    LOCAL_EXT,
    MAP_EXT,
    NATIVE_RECORD_EXT,
    NEW_FUN_EXT,
    SMALL_TUPLE_EXT,
)
