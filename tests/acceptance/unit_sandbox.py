"""Becomes a command behind the walls of a systemd unit: no capability, its umask, and seccomp as systemd makes it.

Run by tests as a program of its own: `unit_sandbox.py UMASK CALLS FAMILIES DENY_WRITE_EXECUTE COMMAND...`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQUAL, _MASKED_EQUAL = 4, 7
_MOST_FAMILIES = 46
_PROT_WRITE, _PROT_EXEC = 2, 4
_DROP_FROM_BOUNDING_SET = 24
_MOST_CAPABILITIES = 41
_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
#: What systemd lets through besides the groups that a unit names.
_ALWAYS = "execve exit exit_group getrlimit rt_sigreturn clock_gettime clock_nanosleep gettimeofday time nanosleep"


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


_library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
_library.seccomp_init.restype = ctypes.c_void_p
_library.seccomp_rule_add_array.argtypes = (
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.POINTER(_Comparison),
)
_library.seccomp_load.argtypes = (ctypes.c_void_p,)


class _Filter:
    def __init__(self, default: int) -> None:
        self._context = _library.seccomp_init(ctypes.c_uint32(default))

    def add(self, action: int, call: str, *comparisons: _Comparison) -> None:
        number = _library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:  # of another architecture
            return
        given = (_Comparison * len(comparisons))(*comparisons)
        code = _library.seccomp_rule_add_array(self._context, action, number, len(comparisons), given)
        if code:
            raise OSError(-code, f"{call} cannot be filtered")

    def load(self) -> None:
        if code := _library.seccomp_load(self._context):
            raise OSError(-code, "seccomp refuses the filter")


def _only(calls: str) -> _Filter:
    made = _Filter(_ERRNO | errno.EPERM)
    for call in {*calls.split(), *_ALWAYS.split()}:
        made.add(_ALLOW, call)
    return made


def _families(allowed: str) -> _Filter:
    numbers = {getattr(socket, name).value for name in allowed.split()}
    made = _Filter(_ALLOW)
    for family in range(1, _MOST_FAMILIES):
        if family not in numbers:
            made.add(_ERRNO | errno.EAFNOSUPPORT, "socket", _Comparison(0, _EQUAL, family, 0))
    return made


def _namespaces() -> _Filter:
    made = _Filter(_ALLOW)
    for flag in _NAMESPACE_FLAGS:
        for call in ("clone", "unshare"):
            made.add(_ERRNO | errno.EPERM, call, _Comparison(0, _MASKED_EQUAL, flag, flag))
    made.add(_ERRNO | errno.EPERM, "setns")
    made.add(_ERRNO | errno.ENOSYS, "clone3")  # as systemd does: its flags are out of reach
    return made


def _no_writable_code() -> _Filter:
    both = _PROT_WRITE | _PROT_EXEC
    made = _Filter(_ALLOW)
    made.add(_ERRNO | errno.EPERM, "mmap", _Comparison(2, _MASKED_EQUAL, both, both))
    for call in ("mprotect", "pkey_mprotect"):
        made.add(_ERRNO | errno.EPERM, call, _Comparison(2, _MASKED_EQUAL, _PROT_EXEC, _PROT_EXEC))
    return made


def _drop_capabilities() -> None:
    """Root, too, is to have none after `exec`: another user could not even read what runs the tests."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_MOST_CAPABILITIES):
        libc.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)


def main(umask: str, calls: str, families: str, deny_write_execute: str, *command: str) -> None:
    """Put up the walls, the one that hides `seccomp` itself last, and become the command."""
    _drop_capabilities()
    os.umask(int(umask, 8))
    filters = [
        _families(families),
        _namespaces(),
        *([_no_writable_code()] if deny_write_execute == "yes" else []),
        _only(calls),
    ]
    for one in filters:
        one.load()  # sets no_new_privs, too
    os.execv(command[0], command)  # noqa: S606 - what the unit names


if __name__ == "__main__":
    main(*sys.argv[1:])
