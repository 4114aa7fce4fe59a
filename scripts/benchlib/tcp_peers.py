"""Who is measured with `--tcp`: each has one process or thread on one core, and writes no log."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from benchlib.nodes import nginx_argv, render
from benchlib.peers import TRACKPROXY, Peer, Site


def _said(*argv: str) -> tuple[int, str]:
    """The exit code of a program, and what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def _trackproxy(site: Site) -> list[str]:
    conf = render("trackproxy-smtp.toml", site.folder, site.port, site.nodes)
    return [str(TRACKPROXY), "serve", "-c", str(conf)]


def _trackproxy_lack() -> str:
    with tempfile.TemporaryDirectory(prefix="trackproxy-bench-") as folder:
        conf = _trackproxy(Site(Path(folder), 2525, ("127.0.0.1:25",)))[-1]
        code, _ = _said(str(TRACKPROXY), "check", "-c", conf)
    return "it does not know SMTP" if code else ""


def _haproxy(site: Site) -> list[str]:
    return ["haproxy", "-db", "-f", str(render("haproxy-tcp.cfg", site.folder, site.port, site.nodes))]


def _splice_lack() -> str:
    return "" if "+LINUX_SPLICE" in _said("haproxy", "-vv")[1] else "it was built without LINUX_SPLICE"


def _nginx(site: Site) -> list[str]:
    argv = nginx_argv(render("nginx-stream.conf", site.folder, site.port, site.nodes))
    module = _stream_module()
    return [*argv, "-g", f"load_module {module};"] if module else argv


def _stream_module() -> Path | None:
    """None if `stream` is built in."""
    built = _said("nginx", "-V")[1]
    folder = re.search(r"--modules-path=(\S+)", built)
    if re.search(r"--with-stream(\s|$)", built) or not folder:
        return None
    return Path(folder[1]) / "ngx_stream_module.so"


def _stream_lack() -> str:
    module = _stream_module()
    return f"there is no {module} (Debian: libnginx-mod-stream)" if module and not module.exists() else ""


TCP_PEERS = {
    "trackproxy": Peer("trackproxy", str(TRACKPROXY), _trackproxy, lack=_trackproxy_lack),
    "haproxy": Peer("HAProxy", "haproxy", _haproxy),
    "haproxy-splice": Peer("HAProxy, splice", "haproxy", _haproxy, {"SPLICE": "1"}, _splice_lack),
    "nginx": Peer("nginx", "nginx", _nginx, lack=_stream_lack),
}
