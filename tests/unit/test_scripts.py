"""The scripts behind `make lint` and `make pytest`.

What they do where clang-format is missing, too old, or not content; and where tests fail beside others.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CI = pytest.mark.parametrize("ci", [False, True], ids=["locally", "in CI"])


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder of the programs that the scripts call, clang-format aside: all that they will find."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "find"):
        path = shutil.which(name)
        assert path is not None
        (folder / name).symlink_to(path)
    return folder


def add_clang_format(tools: Path, name: str, version: str, status: int = 0) -> None:
    """A clang-format that writes down its arguments and ends as it is told to."""
    program = tools / name
    program.write_text(
        "#!/bin/sh\n"
        f'[ "$1" != --version ] || {{ echo "Debian clang-format version {version}"; exit; }}\n'
        f'echo "$@" >{tools}/arguments\n'
        f"exit {status}\n"
    )
    program.chmod(0o755)


def check_format(tools: Path, ci: bool, *files: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": str(tools), **({"CI": "true"} if ci else {})}
    command = ["bash", str(ROOT / "scripts" / "check-format.sh"), *files]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@CI
@pytest.mark.parametrize("version", [None, "14.0.6", "18.1.8"], ids=str)
def test_without_a_clang_format_that_will_do(tools: Path, version: str | None, ci: bool) -> None:
    if version is not None:
        add_clang_format(tools, "clang-format", version)
        add_clang_format(tools, f"clang-format-{version.split('.')[0]}", version)
    done = check_format(tools, ci)
    assert done.returncode == (1 if ci else 0)
    assert "no clang-format of version 19 or newer" in done.stderr
    assert "apt-get install clang-format-19" in done.stderr
    assert ("skipped: " in done.stderr) is not ci
    assert not (tools / "arguments").exists()


@CI
@pytest.mark.parametrize(
    ("name", "version"), [("clang-format", "19.1.7"), ("clang-format-22", "22.1.8"), ("clang-format", "23.1.5")]
)
def test_all_of_the_core_is_checked(tools: Path, name: str, version: str, ci: bool) -> None:
    add_clang_format(tools, name, version)
    done = check_format(tools, ci)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    options, files = [], []
    for argument in (tools / "arguments").read_text().split():
        (options if argument.startswith("-") else files).append(argument)
    assert options == ["--dry-run", "--Werror"]
    sources = [path for path in (ROOT / "native").rglob("*") if path.suffix in (".cc", ".h")]
    assert sources
    assert sorted(files) == sorted(str(path.relative_to(ROOT)) for path in sources)


@CI
def test_what_is_not_formatted_is_an_error(tools: Path, ci: bool) -> None:
    add_clang_format(tools, "clang-format-20", "20.1.8", status=1)
    done = check_format(tools, ci, "native/base/error.h")
    assert done.returncode == 1
    assert "make format does it" in done.stderr
    assert (tools / "arguments").read_text() == "--dry-run --Werror native/base/error.h\n"


@pytest.mark.parametrize(
    ("beside_others", "alone", "status"),
    [((0, 0), 0, 0), ((1, 2), 0, 0), ((1, 2), 1, 1), ((1, 9), 0, 1), ((1, 0), 0, 1), ((2, 2), 0, 2), ((5, 0), 0, 5)],
    ids=["pass", "pass alone", "fail alone", "many fail", "nothing to repeat", "interrupted", "no tests"],
)
def test_what_fails_beside_others_has_to_pass_by_itself(
    tmp_path: Path, beside_others: tuple[int, int], alone: int, status: int
) -> None:
    first, failed = beside_others
    program = tmp_path / "pytest"
    program.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$*" >>{tmp_path}/calls\n'
        'case "$*" in\n'
        f"  *-n*) exit {first} ;;\n"
        f"  *--collect-only*) for i in $(seq {failed}); do echo tests/test_a.py::test_$i; done ;;\n"
        f"  *) exit {alone} ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    script = ROOT / "scripts" / "pytest.sh"
    done = subprocess.run([script, tmp_path], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == status
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0] == "-n 3 --dist loadfile"
    assert (calls[-1] == "--lf --lfnf=none") is (first == 1 and 0 < failed <= 8)
