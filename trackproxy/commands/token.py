"""Makes a token for the admin endpoint: a secret for whoever asks, and what settings keep of it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

SECRET_BYTES = 32  # nobody guesses it, so its hash needs neither salt nor work


def token(name: str, role: str) -> Iterator[str]:
    """Yield the lines to show: a fresh secret, which is kept nowhere, and what to paste into the settings."""
    secret = f"tp_{secrets.token_urlsafe(SECRET_BYTES)}"
    yield secret
    yield ""
    yield "# The line above is the secret of this token, and shown only now. Below is what the settings need;"
    yield '# then "trackproxy reload", and ask with: curl -H "Authorization: Bearer SECRET" …'
    yield "[[admin.tokens]]"
    yield f'name = "{name}"'
    yield f'role = "{role}"'
    yield f'hash = "sha256:{hashlib.sha256(secret.encode()).hexdigest()}"'
