"""Which system calls a confined program may not make, as a seccomp filter.

The namespaces already take away what most of these would reach; the filter holds also where there
are none, and keeps a program away from rarely used, and so rarely audited, parts of the kernel.
"""

from __future__ import annotations

import errno

from exprl.verify.sandbox.kernel import NAMESPACE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

Instruction = tuple[int, int, int, int]

# name: (x86_64, aarch64); None: there is no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),  # all families; socketpair stays
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    # Memory that no limit would count:
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# Without namespaces these could reach what the same user has outside: processes, by signals, and
# files, whose modes, owners and times Landlock does not guard.
_OUTWARD: dict[str, tuple[int | None, int | None]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "sched_setaffinity": (203, 122),
    "setpriority": (141, 140),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_CLONE, _CLONE3, _PRLIMIT, _FCNTL = (56, 220), (435, 435), (302, 261), (72, 25)
_FCNTL_OWNERS = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: signals by way of a file
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def build_filter(machine: str, *, outward: bool) -> list[Instruction]:
    """The filter for an architecture, `x86_64` or `aarch64`.

    Args:
        outward: deny also what reaches other processes and files where no namespaces hold.

    Raises:
        OSError: there is no table for the architecture.
    """
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"no seccomp table for {machine}")
    return list(_make_instructions(machine, outward))


def _make_instructions(machine: str, outward: bool) -> Iterator[Instruction]:
    column = 0 if machine == "x86_64" else 1
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    yield (_LOAD, 0, 0, _ARCH)
    yield (_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_AT_LEAST, 0, 1, _X32)
    yield (_RETURN, 0, 0, _KILL)
    for numbers in (_DENIED | (_OUTWARD if outward else {})).values():
        number = numbers[column]
        if number is not None:
            yield (_EQUAL, 0, 1, number)
            yield refuse
    # Its flags lie in memory, out of a filter's sight; libc falls back to clone.
    yield (_EQUAL, 0, 1, _CLONE3[column])
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    yield (_EQUAL, 0, 3, _CLONE[column])
    yield (_LOAD, 0, 0, _ARGUMENTS)
    yield (_ANY_BIT, 0, 1, NAMESPACE_FLAGS)
    yield refuse
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_EQUAL, 0, 3, _PRLIMIT[column])  # of other processes
    yield (_LOAD, 0, 0, _ARGUMENTS)
    yield (_EQUAL, 1, 0, 0)
    yield refuse
    if outward:
        yield (_LOAD, 0, 0, _NUMBER)
        yield (_EQUAL, 0, 2 + len(_FCNTL_OWNERS), _FCNTL[column])
        yield (_LOAD, 0, 0, _ARGUMENTS + 8)
        for left, command in zip(range(len(_FCNTL_OWNERS), 0, -1), _FCNTL_OWNERS, strict=True):
            yield (_EQUAL, left - 1, 0 if left > 1 else 1, command)
        yield refuse
    yield (_RETURN, 0, 0, _ALLOW)
