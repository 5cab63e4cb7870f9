#!/usr/bin/env python3
"""Checks every #include under src/ against src/LAYERS.

A line of LAYERS reads `room : rooms it may include : external headers it may include`. A file belongs to the room whose
folder lies nearest above it. It may include its own room, the rooms of its line, the C++ standard library and POSIX, and
external headers that one of the line's names covers: `fmt` covers fmt/core.h, fmt.h and fmt. A *_test.cc may also include
gtest, gmock, the room ops and both backends. The rooms form a graph without cycles.

    tools/check_layers.py              # prints one line for each fault; exit code 1 when there is one
    tools/check_layers.py --self-test  # proves on small made-up trees that each rule can fail
"""
import re
import sys
import tempfile
from pathlib import Path

STANDARD = set("""
algorithm any array atomic barrier bit bitset cassert ccomplex cctype cerrno cfenv cfloat charconv chrono cinttypes climits
clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint cstdio
cstdlib cstring ctime cuchar cwchar cwctype deque exception execution expected filesystem format forward_list fstream
functional future generator initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map
mdspan memory memory_resource mutex new numbers numeric optional ostream print queue random ranges ratio regex
scoped_allocator semaphore set shared_mutex source_location span spanstream sstream stack stacktrace stdexcept stdfloat
stop_token streambuf string string_view strstream syncstream system_error thread tuple type_traits typeindex typeinfo
unordered_map unordered_set utility valarray variant vector version
assert.h ctype.h errno.h fenv.h float.h inttypes.h limits.h locale.h math.h setjmp.h signal.h stdarg.h stddef.h stdint.h
stdio.h stdlib.h string.h time.h uchar.h wchar.h wctype.h
""".split())
POSIX = set("""
aio.h cpuid.h dirent.h dlfcn.h fcntl.h fnmatch.h ftw.h glob.h grp.h langinfo.h libgen.h malloc.h netdb.h poll.h pthread.h
pwd.h sched.h semaphore.h spawn.h strings.h syslog.h termios.h ucontext.h unistd.h
""".split())
POSIX_FOLDERS = ("sys/", "linux/", "netinet/", "arpa/", "net/")
TEST_ROOMS = {"core", "kernels", "kernels/reference", "kernels/cpu", "ops"}
TEST_EXTERNALS = {"gtest", "gmock"}
SOURCES = {".h", ".hpp", ".cc", ".cpp", ".c", ".inc", ".inl", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def read_layers(path):
    """Returns ({room: (rooms, externals)}, [fault])."""
    layers, faults = {}, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        fields = [field.split() for field in line.split(":")]
        if len(fields) != 3 or len(fields[0]) != 1:
            faults.append(f"{path.name}:{number}: expected 'room : rooms : external headers'")
        elif fields[0][0] in layers:
            faults.append(f"{path.name}:{number}: room {fields[0][0]} is listed twice")
        else:
            layers[fields[0][0]] = (set(fields[1]), set(fields[2]))
    for room, (rooms, _) in layers.items():
        faults += [f"{path.name}: {room} may include {other}, which is not listed" for other in sorted(rooms - set(layers))]
    return layers, faults


def find_cycle(layers):
    """Returns the rooms of one cycle, or None."""
    done, path = set(), []

    def visit(room):
        if room in path:
            return path[path.index(room):] + [room]
        if room in done:
            return None
        path.append(room)
        for other in sorted(layers[room][0] & set(layers)):
            cycle = visit(other)
            if cycle:
                return cycle
        path.pop()
        done.add(room)
        return None

    for room in sorted(layers):
        cycle = visit(room)
        if cycle:
            return cycle
    return None


def room_of(relative, layers):
    """The listed room nearest above the file src/<relative>; None when there is none."""
    for parent in Path(relative).parents:
        if parent.as_posix() in layers:
            return parent.as_posix()
    return None


def covered(header, names):
    return any(header == name or header.startswith(name + "/") or Path(header).stem == name and "/" not in header
               for name in names)


def without_comments(text):
    """Blanks out /* */ comments, keeping line numbers."""
    return re.sub(r"/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.DOTALL)


def check_file(src, path, layers):
    relative = path.relative_to(src).as_posix()
    room = room_of(relative, layers)
    if room is None:
        return [f"src/{relative}: belongs to no room of LAYERS"]
    rooms, externals = layers[room][0] | {room}, layers[room][1]
    if path.stem.endswith("_test"):
        rooms, externals = rooms | TEST_ROOMS, externals | TEST_EXTERNALS
    faults = []
    for number, line in enumerate(without_comments(path.read_text(errors="replace")).splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        place, header = f"src/{relative}:{number}", match.group(1) or match.group(2)
        if match.group(1) and ((src / header).is_file() or (src / header.split("/")[0]).is_dir()):
            other = room_of(header, layers)
            if not (src / header).is_file():
                faults.append(f'{place}: "{header}" does not exist')
            elif other is None:
                faults.append(f'{place}: "{header}" belongs to no room of LAYERS')
            elif other not in rooms:
                faults.append(f'{place}: room {room} may not include room {other} ("{header}")')
        elif match.group(1) and (path.parent / header).exists():
            faults.append(f'{place}: write "{(path.parent / header).resolve().relative_to(src).as_posix()}" '
                          f'for "{header}": paths start at src/')
        elif match.group(2) and (header in STANDARD or header in POSIX or header.startswith(POSIX_FOLDERS)):
            continue
        elif not covered(header, externals):
            faults.append(f"{place}: room {room} may not include <{header}>")
    return faults


def check(src):
    """Returns (number of files read, [fault])."""
    layers, faults = read_layers(src / "LAYERS")
    cycle = find_cycle(layers)
    if cycle:
        faults.append("LAYERS: the rooms form a cycle: " + " -> ".join(cycle))
    files = sorted(path for path in src.rglob("*") if path.suffix in SOURCES and path.is_file())
    for path in files:
        faults += check_file(src, path, layers)
    return len(files), faults


def self_test():
    layers = "a : : fmt\nb : a :\nb/deep : a b : lib.h\nops : a :\n"
    good = {"LAYERS": layers, "a/a.h": "#include <vector>\n#include <fmt/core.h>\n#include <sys/mman.h>\n",
            "b/b.cc": '#include "a/a.h"\n#include "b/b.h"\n// #include "b/deep/d.h"\n/*\n#include <fmt/core.h>\n*/\n', "b/b.h": "",
            "b/deep/d.h": '#include "b/b.h"\n#include <lib.h>\n', "ops/o.h": "",
            "a/a_test.cc": '#include <gtest/gtest.h>\n#include "ops/o.h"\n'}
    # (what the rule forbids, files that replace or join the good tree, the expected words; None: no fault)
    cases = [
        ("nothing", {}, None),
        ("a room above", {"a/a.h": '#include "b/b.h"\n'}, "a/a.h:1: room a may not include room b"),
        ("a nested room", {"b/b.h": '#include "b/deep/d.h"\n'}, "room b may not include room b/deep"),
        ("another external header", {"b/b.h": "\n#include <fmt/core.h>\n"}, "b/b.h:2: room b may not include <fmt/core.h>"),
        ("an external header in quotes", {"b/b.h": '#include "fmt/core.h"\n'}, "may not include <fmt/core.h>"),
        ("a test's rights outside tests", {"a/a.h": '#include "ops/o.h"\n'}, "room a may not include room ops"),
        ("gtest outside tests", {"a/a.h": "#include <gtest/gtest.h>\n"}, "may not include <gtest/gtest.h>"),
        ("other rooms in tests", {"a/a_test.cc": '#include "b/b.h"\n'}, "room a may not include room b"),
        ("a folder without a room", {"c/c.h": ""}, "src/c/c.h: belongs to no room"),
        ("including a folder without a room", {"c/c.h": "", "b/b.h": '#include "c/c.h"\n'}, '"c/c.h" belongs to no room'),
        ("a header that does not exist", {"b/b.h": '#include "a/gone.h"\n'}, '"a/gone.h" does not exist'),
        ("a path beside the file", {"b/b.cc": '#include "b.h"\n'}, 'write "b/b.h" for "b.h"'),
        ("a cycle", {"LAYERS": layers.replace("a : :", "a : b :")}, "cycle: a -> b -> a"),
        ("an unknown room", {"LAYERS": layers.replace("b : a", "b : a z")}, "b may include z, which is not listed"),
        ("a room listed twice", {"LAYERS": layers + "a : :\n"}, "listed twice"),
        ("a malformed line", {"LAYERS": layers + "c : a\n"}, "expected 'room"),
    ]
    wrong = 0
    for name, files, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            src = Path(folder).resolve()
            for relative, text in (good | files).items():
                (src / relative).parent.mkdir(parents=True, exist_ok=True)
                (src / relative).write_text(text)
            faults = check(src)[1]
        if (not faults) if expected is None else any(expected in fault for fault in faults):
            continue
        wrong += 1
        print(f"self-test, {name}: expected {expected!r}, found {faults}")
    print(f"check_layers self-test: {len(cases) - wrong} of {len(cases)} cases behave")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    count, faults = check(Path(__file__).resolve().parent.parent / "src")
    print("\n".join(faults + [f"check_layers: {count} files, {len(faults)} faults"]))
    return 1 if faults or not count else 0


if __name__ == "__main__":
    sys.exit(main())
