"""The system calls that confine a process and that Python has no names for, through ctypes."""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACE_FLAGS = 0x7E020000
"""Every flag of clone(2) that makes a namespace."""

MS_NOSUID, MS_NODEV, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 2, 4, 4096, 8192, 16384, 1 << 18

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38

# Calls newer than 2019 have the same number on every architecture.
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY_NOSUID_NODEV = 1 | 2 | 4


def _check_result(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _syscall(name: str, number: int, *arguments: object) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check_result(int(_libc.syscall(ctypes.c_long(number), *words)), name)


def _prctl(option: int, value: object, third: object = None) -> None:
    words = [ctypes.c_ulong(v) if isinstance(v, int) else v for v in (value, third or 0, 0, 0)]
    _check_result(_libc.prctl(option, *words), f"prctl {option}")


def signal_at_parents_end(number: int) -> None:
    """Get a signal when the thread that started this process ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_tracing() -> None:
    """Keep processes of the same user out of this one's memory, until it executes a program."""
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Let no program that is executed from here on gain rights."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def unshare(flags: int) -> None:
    """Leave the namespaces of the parent."""
    _check_result(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    encoded = [os.fsencode(text) for text in (source, target, kind)]
    result = _libc.mount(*encoded, ctypes.c_ulong(flags), options.encode())
    _check_result(result, f"mount {target}")


def make_read_only(target: str) -> None:
    """Make a mount and all below it read-only, without devices and set-user-id programs."""
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY_NOSUID_NODEV, 0, 0, 0)
    path = os.fsencode(target)
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, attributes, 32)


def landlock(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> None:
    """Restrict this process to these paths, and from TCP and signals where the kernel can.

    Kernel documentation: userspace-api/landlock. Needs no_new_privileges.
    """
    abi = _syscall("landlock", _LANDLOCK_CREATE, None, 0, 1)
    everything = (1 << 13) - 1  # every right of the first version
    everything |= (abi >= 2) << 13 | (abi >= 3) << 14 | (abi >= 5) << 15
    execute_and_read = 1 << 0 | 1 << 2 | 1 << 3
    read_and_write_file = 1 << 1 | 1 << 2
    tcp = 0b11 if abi >= 4 else 0
    unix_and_signals = 0b11 if abi >= 6 else 0
    attribute = struct.pack("=QQQ", everything, tcp, unix_and_signals)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _syscall("landlock", _LANDLOCK_CREATE, attribute, size, 0)
    rules: list[tuple[str, int]] = [(path, execute_and_read) for path in readable]
    rules += [(path, everything) for path in writable]
    rules += [(path, read_and_write_file) for path in devices]
    for path, rights in rules:
        if not os.path.exists(path):  # noqa: PTH110 (pathlib costs a third of the start)
            continue
        if not os.path.isdir(path):  # noqa: PTH112
            rights &= read_and_write_file | 1  # noqa: PLW2901
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, place)
        _syscall("landlock", _LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(place)
    _syscall("landlock", _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def seccomp(program: Sequence[tuple[int, int, int, int]]) -> None:
    """Put a filter of (code, jump if true, jump if false, value) before all system calls.

    Needs no_new_privileges.
    """
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.byref(_Filter(len(program), code)))
