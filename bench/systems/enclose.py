"""The walls around a worker, from inside: `python -I -S enclose.py FIELD=VALUE... -- COMMAND...` runs it behind them.

Standard library only, and little of that: what is imported here is added to the start of every trial. Three processes:
this one stays outside and watches over the host's death; the second is the first process of new user, mount, PID,
network and IPC namespaces, and ends every descendant when it ends; the third becomes the command, without a single
capability. Its file system is built of nothing but what the fields name, so that there is nothing to unmount or to
climb out to.

    host      its process id
    folder    removed if the host dies; holds `work` (the working directory, writable) and `root` (empty, to build on)
    isolate   yes or no; without, the command sees the whole system, and its descendants alone are looked after
    read, write, hide     paths bound read-only, bound writable, covered by an empty folder; each may be repeated
    device    a node of /dev; may be repeated"""

from __future__ import annotations

# `signal` itself would import enum and re, which take longer than all that is done here.
import _signal as signal  # type: ignore[import-not-found]
import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CANNOT_ISOLATE = 71  # exit code: EX_OSERR
HOST_DIED = signal.SIGUSR1  # the kernel's word to us
PROCESSES = 4096  # and threads, of one command

# linux/mount.h, sched.h, prctl.h, securebits.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = -100, 0x8000, 1, 2
NEW_NAMESPACES = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000  # user, PID, network, IPC
NEW_MOUNTS = 0x00020000
PDEATHSIG, CAPBSET_DROP, SECUREBITS, SUBREAPER, NO_NEW_PRIVS, CAP_AMBIENT = 1, 24, 28, 36, 38, 47
SYSCALLS = {"x86_64": (155, 442, 126), "aarch64": (41, 442, 91)}  # pivot_root, mount_setattr, capset
SIOCSIFFLAGS = 0x8914

Fields = dict[str, list[str]]

libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _prctl(option: int, *values: int) -> None:
    _checked(libc.prctl(option, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4])), f"prctl {option}")


def _syscall(which: int, *arguments: object) -> None:
    machine = os.uname().machine
    if machine not in SYSCALLS:
        raise OSError(f"no system call numbers for {machine}")
    _checked(libc.syscall(ctypes.c_long(SYSCALLS[machine][which]), *arguments), f"system call {which}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None)
    _checked(libc.mount(*arguments), f"mount {target}")


def _unshare(flags: int) -> None:
    _checked(libc.unshare(flags), "unshare")


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            with open(target, "w"):
                pass
    # What lies mounted below comes too: the kernel refuses to show what another mount covers.
    _mount(source, target, flags=MS_BIND | MS_REC)


def _read_only(target: str) -> None:
    """Make a bind and all that is mounted below it read-only."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    try:
        size = ctypes.c_size_t(len(attributes))
        _syscall(1, ctypes.c_int(AT_FDCWD), target.encode(), ctypes.c_uint(AT_RECURSIVE), attributes, size)
    except OSError:  # before Linux 5.12
        _mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def _scratch(target: str, size: str, mode: str = "1777") -> None:
    os.makedirs(target, exist_ok=True)
    _mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},mode={mode}")


def _map_user(uid: int, gid: int) -> None:
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def _build_root(fields: Fields) -> None:
    """A file system of what `fields` name, and nothing else, as the new root."""
    root, work = fields["folder"][0] + "/root", fields["folder"][0] + "/work"
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=755")
    _scratch(root + "/tmp", "256m")
    for path in fields["read"]:
        if os.path.islink(path):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            os.symlink(os.readlink(path), root + path)
        elif os.path.exists(path):
            _bind(path, root + path)
            _read_only(root + path)
    for path in fields["hide"]:
        if os.path.isdir(root + path):
            _mount("tmpfs", root + path, "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,mode=755")
    for path in (*fields["write"], work):
        _bind(path, root + path)
    _devices(root, fields["device"])
    os.makedirs(root + "/proc", exist_ok=True)
    _mount("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    with open(root + "/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")
    # A command of the superuser's is still the superuser to the kernel's own switches.
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        if os.path.exists(f"{root}/proc/{name}"):
            _bind(f"{root}/proc/{name}", f"{root}/proc/{name}")
            _read_only(f"{root}/proc/{name}")
    old = root + "/.old"
    os.mkdir(old)
    _syscall(0, root.encode(), old.encode())
    os.chdir("/")
    _checked(libc.umount2(b"/.old", MNT_DETACH), "umount2")
    os.rmdir("/.old")
    _mount("none", "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(work)


def _devices(root: str, devices: list[str]) -> None:
    os.makedirs(root + "/dev", exist_ok=True)
    for path in devices:
        if os.path.exists(path):
            _bind(path, root + path)
    _scratch(root + "/dev/shm", "50%")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")


def _loopback_up() -> None:
    handle = libc.socket(2, 2, 0)  # AF_INET, SOCK_DGRAM
    request = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")  # up, running
    _checked(libc.ioctl(handle, ctypes.c_ulong(SIOCSIFFLAGS), request), "loopback")
    os.close(handle)


def _drop_privileges() -> None:
    """No capability now, none by any later exec."""
    _prctl(NO_NEW_PRIVS, 1)
    _prctl(CAP_AMBIENT, 4)  # clear all
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for capability in range(last + 1):
        _prctl(CAPBSET_DROP, capability)
    _prctl(SECUREBITS, 0x2F)  # no root, no setuid fixup, both locked; keep-capabilities locked off
    _syscall(2, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6))


def _become(command: list[str], isolate: bool) -> NoReturn:
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if isolate:
            resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
        os.execv(command[0], command)
    except OSError as error:
        _complain(f"{command[0]}: {error}")
    os._exit(CANNOT_ISOLATE)


def _complain(sentence: str) -> None:
    try:
        os.write(2, f"walls: {sentence}\n".encode())
    except OSError:
        pass


def _forget_files(keep: tuple[int, ...] = ()) -> None:
    """Close what the command was given: a pipe ends when its last writer does."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:  # the listing's own
                pass
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)


def _first_process(fields: Fields, command: list[str], answer: int) -> NoReturn:
    """Process 1 of the namespaces: starts the command, tells how it ended, and ends all others with itself."""
    try:
        _unshare(NEW_MOUNTS)
        _loopback_up()
        _build_root(fields)
        _drop_privileges()
        _prctl(PDEATHSIG, signal.SIGKILL)
    except (OSError, ValueError) as error:
        _complain(str(error))
        os._exit(CANNOT_ISOLATE)
    child = os.fork()
    if child == 0:
        os.close(answer)
        _become(command, isolate=True)
    _forget_files(keep=(answer,))
    os.close(2)
    while True:
        ended, status = os.wait()
        if ended == child:
            os.write(answer, str(status).encode())
            os._exit(0)


def _descendants() -> list[int]:
    """Process ids below this one; strays too, since they are handed to it."""
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:  # ended meanwhile
            continue
        if state != "Z":
            parents.setdefault(int(parent), []).append(int(name))
    todo, out = [os.getpid()], list[int]()
    while todo:
        below = parents.get(todo.pop(), [])
        out += below
        todo += below
    return out


def _reap(options: int) -> None:
    try:
        while os.waitpid(-1, options)[0] != 0:
            pass
    except ChildProcessError:
        pass


def _end_descendants() -> None:
    while left := _descendants():
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _reap(os.WNOHANG)
    _reap(0)


def _end_as(status: int) -> NoReturn:
    """End as the command did."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:  # which has no handler to put back
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def main() -> NoReturn:
    """Run the command behind the walls, and end as it does."""
    split = sys.argv.index("--")
    fields: Fields = {name: [] for name in ("host", "folder", "isolate", "read", "write", "hide", "device")}
    for word in sys.argv[1:split]:
        name, _, value = word.partition("=")
        fields[name].append(value)
    command, host, isolate = sys.argv[split + 1 :], int(fields["host"][0]), fields["isolate"] == ["yes"]

    def ended(number: int, frame: object) -> NoReturn:
        # Once: a host with threads dies one by one, and each death is told.
        for word in (signal.SIGTERM, HOST_DIED):
            signal.signal(word, signal.SIG_IGN)
        _end_descendants()
        # Not told by the parent's id: of a host with threads the one that started us may be the first to die.
        if number == HOST_DIED or os.getppid() != host:
            _remove(fields["folder"][0])
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    signal.signal(HOST_DIED, ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the host's to answer
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    uid, gid = os.geteuid(), os.getegid()
    reader, writer = os.pipe()
    try:
        if isolate:
            _unshare(NEW_NAMESPACES)
            _map_user(uid, gid)
        else:
            _prctl(SUBREAPER, 1)
        _prctl(PDEATHSIG, HOST_DIED)
    except OSError as error:
        _complain(str(error))
        os._exit(CANNOT_ISOLATE)
    if os.getppid() != host:  # it died before the line above
        ended(HOST_DIED, None)
    child = os.fork()
    if child == 0:
        os.close(reader)
        for number in (signal.SIGTERM, HOST_DIED):
            signal.signal(number, signal.SIG_DFL)
        if isolate:
            _first_process(fields, command, writer)
        os.close(writer)
        _become(command, isolate=False)
    os.close(writer)
    _forget_files(keep=(reader,))
    status = None
    while status is None:
        process, answer = os.wait()
        if process == child:
            status = answer
    if not isolate:  # else they ended with their first process
        _end_descendants()
    answered = os.read(reader, 32) if isolate else b""
    _end_as(int(answered) if answered else status)


if __name__ == "__main__":
    main()
