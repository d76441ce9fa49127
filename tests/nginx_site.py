"""nginx with the documented configuration, as a process of the user: its own folder, port and server behind it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

DOCUMENTED = Path(__file__).parents[1] / "docs" / "nginx.conf"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_program() -> str | None:
    """Where nginx is; ``sbin`` is not on everybody's path."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def configured(folder: Path, port: int, server: str) -> list[str]:
    """The command of an nginx that writes under ``folder`` only: the documented file but for places and addresses."""
    folder.chmod(0o755)  # workers of root's nginx are another user
    text = DOCUMENTED.read_text()
    changes = {
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server {server};",
        "/var/log/nginx": str(folder),
        "http {": "http {\n" + "".join(f"    {name}_temp_path {folder / name};\n" for name in _TEMPORARY),
    }
    for before, after in changes.items():
        if text.count(before) != 1:
            raise ValueError(f"the documented configuration should hold {before!r} once")
        text = text.replace(before, after)
    written = folder / "nginx.conf"
    written.write_text(text)
    alone = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
    program = nginx_program()
    if program is None:
        raise FileNotFoundError("nginx")
    return [program, "-p", str(folder), "-c", str(written), "-g", alone]


@contextmanager
def behind_nginx(folder: Path, port: int, server: str) -> Iterator[str]:
    """The address of an nginx in front of ``server`` (HOST:PORT), stopped at the end."""
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(configured(folder, port, server))
    try:
        _wait(f"{url}/health", process)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the server answers through nginx."""
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(url, timeout=10).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("nginx did not start, or the server behind it does not answer")
