"""Google's access tokens: from a service account's key, a person's login, or the machine's own account.

Invariant: a token is asked for once, however many wait for it, and again a little before it runs out. No key or token shows in an
error.
"""

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from perdure.core.errors import ProviderError
from perdure.providers.http import Endpoint, Http

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TOKEN_URL = "https://oauth2.googleapis.com/token"
METADATA = "http://metadata.google.internal"
METADATA_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"
WELL_KNOWN = Path("~/.config/gcloud/application_default_credentials.json")
EARLY_S = 120.0
TIMEOUT_S = 20.0
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class GoogleTokens:
    """Tokens for one provider. `file`: its credentials; None: where Google's tools keep them, then the metadata server.

    `fixed`: a token somebody gave, used as it is.
    """

    def __init__(
        self, http: Http, name: str, *, file: str | None = None, fixed: str | None = None, metadata: str = METADATA
    ) -> None:
        self._http = http
        self._name = name
        self._file = file
        self._fixed = fixed
        self._metadata = metadata
        self._token = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def token(self) -> str:
        if self._fixed is not None:
            return self._fixed
        if time.monotonic() < self._until:
            return self._token
        async with self._lock:
            if time.monotonic() >= self._until:
                answer = await self._ask()
                self._token = str(answer["access_token"])
                self._until = time.monotonic() + max(float(answer.get("expires_in") or 0) - EARLY_S, 0.0)
            return self._token

    async def _ask(self) -> dict[str, Any]:
        credentials = self._credentials()
        if credentials is None:
            endpoint = Endpoint(self._name, self._metadata, headers={"Metadata-Flavor": "Google"})
            return await self._call(endpoint, METADATA_PATH, None)
        kind, url = credentials.get("type"), str(credentials.get("token_uri") or TOKEN_URL)
        if kind == "service_account":
            fields = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": _jwt(credentials, url)}
        elif kind == "authorized_user":
            names = ("client_id", "client_secret", "refresh_token")
            fields = {"grant_type": "refresh_token", **{name: str(credentials.get(name) or "") for name in names}}
        else:
            raise self._refused(f"credentials of type {kind!r} are not read; use a service account's key")
        parts = urlsplit(url)
        endpoint = Endpoint(self._name, f"{parts.scheme}://{parts.netloc}")
        return await self._call(endpoint, parts.path or "/", urlencode(fields).encode())

    async def _call(self, endpoint: Endpoint, path: str, body: bytes | None) -> dict[str, Any]:
        method, headers = ("GET", None) if body is None else ("POST", FORM)
        try:
            said = await self._http.call(endpoint, path, body, method=method, headers=headers, timeout_s=TIMEOUT_S)
            answer = msgspec.json.decode(said, type=dict[str, Any])
        except (ProviderError, msgspec.DecodeError, msgspec.ValidationError) as cause:
            raise self._refused(f"no access token from {endpoint.base_url}: {cause}") from cause
        if not answer.get("access_token"):
            raise self._refused(f"{endpoint.base_url} answered without an access token")
        return answer

    def _credentials(self) -> dict[str, Any] | None:
        path = Path(self._file).expanduser() if self._file else WELL_KNOWN.expanduser()
        if self._file is None and not path.exists():
            return None
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as cause:
            raise self._refused(f"{path} cannot be read as Google credentials: {type(cause).__name__}") from cause
        return found if isinstance(found, dict) else {}

    def _refused(self, why: str) -> ProviderError:
        advice = "Set GOOGLE_APPLICATION_CREDENTIALS to a service account's key, or log in with gcloud."
        return ProviderError(f"{self._name} has no right to call Google: {why}. {advice}", kind="llm_authentication")


def _jwt(credentials: dict[str, Any], audience: str) -> str:
    """A service account's own claim to a token, signed with its key."""
    try:
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as missing:
        raise ProviderError(
            "A service account's key needs a package to sign with: pip install 'perdure[vertex]'.",
            kind="llm_authentication",
        ) from missing
    try:
        key = load_pem_private_key(str(credentials["private_key"]).encode(), password=None)
        issuer = credentials["client_email"]
    except (KeyError, ValueError, TypeError) as cause:
        raise ProviderError("The service account's key file holds no key.", kind="llm_authentication") from cause
    assert isinstance(key, RSAPrivateKey)
    now = int(time.time())
    claims = {"iss": issuer, "scope": SCOPE, "aud": audience, "iat": now, "exp": now + 3600}
    head = {"alg": "RS256", "typ": "JWT", "kid": credentials.get("private_key_id")}
    signed = b".".join(_b64(msgspec.json.encode(part)) for part in (head, claims))
    return (signed + b"." + _b64(key.sign(signed, PKCS1v15(), SHA256()))).decode()


def _b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")
