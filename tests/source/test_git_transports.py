"""Real ssh and http(s) servers: the remotes that people use, with credentials, and the user's own git settings."""

from __future__ import annotations

import asyncio
import base64
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from skulk.adapters import child
from skulk.adapters.git import GitRepo
from skulk.core.errors import SRC_AUTH, SRC_UNREACHABLE

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
HTTP_BACKEND = Path(
    subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip(),
    "git-http-backend",
)
GIT_SECONDS = 60.0

needs_sshd = pytest.mark.skipif(SSHD is None, reason="the program sshd (package openssh-server) is missing")
needs_http_backend = pytest.mark.skipif(not HTTP_BACKEND.exists(), reason="the program git-http-backend is missing")
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is missing")


def _keygen(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def ssh_server(tmp_path, monkeypatch):
    """An sshd of our own for the current user; yields (port, directory of keys and client configuration)."""
    base = tmp_path / "ssh"
    base.mkdir(mode=0o700)
    host_key, port = _keygen(base / "host"), _free_port()
    _keygen(base / "client")
    _keygen(base / "stranger")
    shutil.copy(base / "client.pub", base / "authorized_keys")
    known = base / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {(base / 'host.pub').read_text()}")
    (base / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {base}/authorized_keys\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin yes\nLogLevel ERROR\nAcceptEnv GIT_PROTOCOL\n"
    )
    (base / "config").write_text(
        f"IdentityFile {base}/client\nIdentitiesOnly yes\nUserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\n"
    )
    monkeypatch.setenv("GIT_SSH_COMMAND", f"ssh -F {base}/config")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where a root sshd separates privileges
    log = (base / "log").open("wb")
    server = subprocess.Popen(
        [str(SSHD), "-D", "-e", "-f", str(base / "sshd_config")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (base / "log").read_text()
                assert time.monotonic() < deadline, "sshd did not listen"
                time.sleep(0.02)
        yield port, base
    finally:
        children = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        server.kill()
        server.wait()
        for child in children:
            if child.is_running():
                child.kill()
        log.close()


def _ssh_url(port: int, path: Path) -> str:
    return f"ssh://{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1:{port}{path}"


@needs_sshd
def test_an_ssh_remote_is_read_with_the_users_key_and_known_hosts(ssh_server, seeded, mirror):
    port, _ = ssh_server
    repo = GitRepo(_ssh_url(port, seeded.bare), "main", mirror, timeout_seconds=GIT_SECONDS)

    async def read():
        return await repo.tree(await repo.head())

    assert [f.path for f in asyncio.run(read())] == ["fleet/fleet.yaml"]


@needs_sshd
def test_an_ssh_key_that_is_not_allowed_is_an_authentication_failure(ssh_server, seeded, mirror, refused):
    port, base = ssh_server
    config = base / "config"
    config.write_text(config.read_text().replace(f"{base}/client", f"{base}/stranger"))
    repo = GitRepo(_ssh_url(port, seeded.bare), "main", mirror, timeout_seconds=GIT_SECONDS)
    assert "Permission denied" in refused(repo.head(), SRC_AUTH).message


@needs_sshd
def test_an_ssh_host_that_is_not_known_is_not_trusted(ssh_server, seeded, mirror, refused):
    port, base = ssh_server
    (base / "known_hosts").write_text("")
    repo = GitRepo(_ssh_url(port, seeded.bare), "main", mirror, timeout_seconds=GIT_SECONDS)
    assert "Host key" in refused(repo.head(), SRC_AUTH).message


@needs_sshd
def test_a_missing_repository_behind_ssh_is_named(ssh_server, seeded, mirror, refused, tmp_path):
    port, _ = ssh_server
    repo = GitRepo(_ssh_url(port, tmp_path / "nowhere.git"), "main", mirror, timeout_seconds=GIT_SECONDS)
    assert "nowhere.git" in refused(repo.head(), SRC_UNREACHABLE).message


class _Backend(BaseHTTPRequestHandler):
    """git's own CGI program behind basic authentication (ada, s3cret with a special /)."""

    protocol_version = "HTTP/1.0"
    root: Path
    redirect_to: str | None = None
    password = "s3c/ret"
    seen: list[str | None]

    def log_message(self, *_args):
        pass

    def do_GET(self):
        self._serve(b"")

    def do_POST(self):
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _serve(self, body: bytes) -> None:
        authorization = self.headers.get("Authorization")
        self.seen.append(authorization)
        expected = "Basic " + base64.b64encode(f"ada:{self.password}".encode()).decode()
        if self.redirect_to is not None:
            self.send_response(302)
            self.send_header("Location", self.redirect_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if authorization != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            [str(HTTP_BACKEND)],
            input=body,
            capture_output=True,
            check=True,
            env=os.environ
            | {
                "GIT_PROJECT_ROOT": str(self.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type") or "",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
            },
        )
        headers, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in headers.decode().split("\r\n"))
        self.send_response(int(fields.pop("Status", "200 OK").split()[0]))
        for name, value in {**fields, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def serve_http(seeded):
    """Start servers of the seeded remote: (tls context, redirect target) → (server, authorizations seen)."""
    servers = []

    def start(context: ssl.SSLContext | None = None, redirect_to: str | None = None):
        seen: list[str | None] = []
        handler = type("Handler", (_Backend,), {"root": seeded.bare.parent, "redirect_to": redirect_to, "seen": seen})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return server.server_address[1], seen

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@needs_http_backend
def test_an_http_remote_is_read_with_a_password_of_the_url(serve_http, seeded, mirror):
    port, seen = serve_http()
    repo = GitRepo(f"http://ada:s3c%2Fret@127.0.0.1:{port}/remote.git", "main", mirror, timeout_seconds=GIT_SECONDS)
    assert asyncio.run(repo.head()) == seeded.head()
    assert any(seen)
    stored = b"".join(f.read_bytes() for f in mirror.rglob("*") if f.is_file() and "objects" not in f.parts)
    assert b"s3c" not in stored


@needs_http_backend
def test_an_http_remote_is_read_with_the_users_credential_helper(serve_http, seeded, mirror, tmp_path, monkeypatch):
    port, _ = serve_http()
    config = tmp_path / "gitconfig"
    config.write_text('[credential]\n\thelper = "!f() { echo username=ada; echo password=s3c/ret; }; f"\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    repo = GitRepo(f"http://127.0.0.1:{port}/remote.git", "main", mirror, timeout_seconds=GIT_SECONDS)
    assert asyncio.run(repo.head()) == seeded.head()


@needs_http_backend
@pytest.mark.parametrize("userinfo", ["", "ada:wrong-s3cret@"])
def test_missing_or_wrong_credentials_are_told_and_not_asked_for(serve_http, mirror, refused, userinfo):
    port, _ = serve_http()
    repo = GitRepo(f"http://{userinfo}127.0.0.1:{port}/remote.git", "main", mirror, timeout_seconds=GIT_SECONDS)
    assert "wrong-s3cret" not in str(refused(repo.head(), SRC_AUTH))


@needs_http_backend
def test_a_password_of_the_url_is_not_sent_to_where_the_remote_redirects(serve_http, mirror, refused):
    """Another host, here another port, gets to ask in vain."""
    target, seen = serve_http()
    port, _ = serve_http(redirect_to=f"http://127.0.0.1:{target}")
    repo = GitRepo(f"http://ada:s3c%2Fret@127.0.0.1:{port}/remote.git", "main", mirror, timeout_seconds=GIT_SECONDS)
    refused(repo.head(), SRC_AUTH)
    assert seen
    assert not any(seen)


@needs_http_backend
def test_a_password_of_the_url_appears_in_no_process_list(serve_http, mirror, monkeypatch):
    port, _ = serve_http()
    commands = []
    real = child.start

    def noting(command, **options):
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(child, "start", noting)
    asyncio.run(GitRepo(f"http://ada:s3c%2Fret@127.0.0.1:{port}/remote.git", "main", mirror).head())
    assert any("fetch" in command for command in commands)
    assert not any("s3c" in part for command in commands for part in command)


@needs_http_backend
@needs_openssl
def test_an_https_remote_is_read_with_the_users_ca_and_refused_without(
    serve_http, seeded, mirror, tmp_path, monkeypatch, refused
):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    port, _ = serve_http(context)
    repo = GitRepo(f"https://ada:s3c%2Fret@127.0.0.1:{port}/remote.git", "main", mirror, timeout_seconds=GIT_SECONDS)
    assert "certificate" in refused(repo.head(), SRC_UNREACHABLE).message
    monkeypatch.setenv("GIT_SSL_CAINFO", str(tmp_path / "ca.pem"))
    assert asyncio.run(repo.head()) == seeded.head()
