"""The admin API against its own OpenAPI document: what that allows is asked, and what it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.test_admin_endpoint import LONG_S, Stage, Token, stage

__all__ = ["stage"]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
)
NAMES = {"name": ["node1", "node2", "extra", "gone"], "service": ["web", "gone"]}
CONFIG = """
# Other addresses than those of this machine would be looked up, and other names would be there later.
[[operations]]
include-name = "POST /api/v1/nodes"
generation.mode = "positive"
"""


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """DOCUMENT with the names of this stage, so that what is asked for is there more often than not."""
    for methods in document["paths"].values():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["name"] in NAMES and parameter["in"] == "path":
                    parameter["schema"] = {"enum": NAMES[parameter["name"]]}
    order = document["components"]["schemas"]["NodeOrder"]["properties"]
    order["name"] = {"enum": ["node1", "extra"]}
    order["address"] = {"enum": ["127.0.0.1:9"]}
    return document


def test_the_api_does_what_its_document_says(stage: Stage) -> None:
    token = Token("will", "write")
    stage.write(token)
    folder: Path = stage.cluster.folder
    with stage.cluster.serving():
        _, document = stage.curl("/api/v1/openapi.json", secret=token.secret)
        file = folder / "openapi.json"
        file.write_text(json.dumps(narrowed(document)))
        config = folder / "schemathesis.toml"
        config.write_text(CONFIG)
        words = ["--checks", ",".join(CHECKS), "--max-examples", "25", "--generation-deterministic"]
        words += ["--request-timeout", "15", "--suppress-health-check", "all", "--no-color"]
        words += ["--exclude-path", "/api/v1/events"]  # which may go on for ever
        words += ["-H", f"Authorization: Bearer {token.secret}", "--url", stage.url("")]
        asked = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "--config-file",
                str(config),
                "run",
                str(file),
                *words,
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=LONG_S,
            check=False,
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert stage.curl("/healthz")[0] == 200
