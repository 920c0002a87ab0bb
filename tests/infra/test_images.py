"""The images: linted, pinned, without root or compilers, from what .dockerignore lets in."""

import re
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests.infra.built import INFRA, ROOT, tool

DOCKERFILE = INFRA / "docker" / "Dockerfile"


def stages() -> dict[str, tuple[str, list[str]]]:
    """Each stage's base and its instructions, continued lines joined."""
    found: dict[str, tuple[str, list[str]]] = {}
    for line in re.sub(r"\\\n", "", DOCKERFILE.read_text()).splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[start[2]] = (start[1], [])
            name = start[2]
        elif line and not line.startswith("#"):
            found[name][1].append(" ".join(line.split()))
    return found


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_bases_are_pinned_and_of_no_named_registry() -> None:
    made = stages()
    foreign = {base for base, _ in made.values() if base not in made}
    assert foreign == {"python:3.11.14-slim-bookworm"}


def test_the_last_stages_run_as_a_user_and_install_nothing() -> None:
    made = stages()
    assert [name for name, (base, _) in made.items() if base == "runtime"] == ["mlflow", "cuda", "cpu"]
    runtime = made["runtime"][1]
    assert "USER 1000:1000" in runtime
    for name in ("runtime", "mlflow", "cuda", "cpu"):
        steps = made[name][1]
        assert not [step for step in steps if re.search(r"apt|pip install|USER (root|0)", step)]
    assert [step for step in runtime if "for tool in cc gcc g++ clang make" in step and "exit 1" in step]
    for name in ("cuda", "cpu"):
        assert "COPY --from=build /opt/prichexy /opt/prichexy" in made[name][1]
    assert [step.split("CMD")[0] for step in runtime if step.startswith("HEALTHCHECK")]


def test_the_launchers_stage_ends_as_a_user_and_without_a_compiler() -> None:
    steps = stages()["launcher"][1]
    assert [step for step in steps if step.startswith("USER")] == ["USER 0:0", "USER 1000:1000"]
    assert steps[-1] == "USER 1000:1000"
    (install,) = [step for step in steps if "apt-get" in step]
    assert "for tool in cc gcc g++ clang make" in install
    assert "--no-install-recommends" in install


def test_login_shells_find_the_programs_too() -> None:
    """/etc/profile sets PATH anew; Ray's launcher runs its commands in `bash --login`."""
    copied, placed = next(step for step in stages()["runtime"][1] if "/etc/profile.d/" in step).split()[1:]
    assert placed == "/etc/profile.d/prichexy.sh"
    (path,) = [step for step in stages()["runtime"][1] if step.startswith("ENV PATH=")]
    assert path.startswith("ENV PATH=/opt/prichexy/bin:$PATH")
    profile = ["env", "-i", "PATH=/usr/bin:/bin", "sh", "-c", f'. {ROOT / copied}; printf "%s" "$PATH"']
    assert subprocess.run(profile, capture_output=True, text=True).stdout == "/opt/prichexy/bin:/usr/bin:/bin"


def test_everything_that_is_copied_exists_and_is_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    for place in let_in:
        assert (ROOT / place).exists(), place
    for step in stages()["runtime"][1]:
        if step.startswith("COPY "):
            for source in step.split()[1:-1]:
                assert (ROOT / source).exists()
                assert any(source == place or source.startswith(f"{place}/") for place in let_in)
    assert not {"shared", ".git", "tests", "infra"} & set(let_in)


def test_the_installation_is_bound_to_wheels_and_constraints() -> None:
    script = (INFRA / "docker" / "install.sh").read_text()
    subprocess.run(["sh", "-n", str(INFRA / "docker" / "install.sh")], check=True)
    assert "--only-binary :all: --constraint constraints.txt" in script
    pinned = {re.split("==", line)[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for line in (INFRA / "docker" / "mlflow-requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert "==" in line or line.lower() in pinned, line


@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_the_healthcheck_fails_unless_the_server_says_200(status: int, code: int) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.handle_request, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    done = subprocess.run([tool("python3"), str(INFRA / "docker" / "healthy.py"), address], capture_output=True)
    server.server_close()
    assert done.returncode == code
