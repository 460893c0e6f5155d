"""AWS Signature Version 4: the headers that prove a request is ours.

Pure. Source: AWS's description of the signing process; held to its published test suite (tests/unit/providers/test_sigv4.py).
"""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

from msgspec import Struct

ALGORITHM = "AWS4-HMAC-SHA256"
UNRESERVED = "-_.~"


class AwsKeys(Struct, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None

    def __repr__(self) -> str:  # never the secret: values end up in logs
        return f"AwsKeys(access_key_id={self.access_key_id!r})"


def signed_headers(
    method: str,
    url: str,
    body: bytes,
    keys: AwsKeys,
    *,
    region: str,
    service: str,
    headers: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> dict[str, str]:
    """The headers to add to a request: its time, the session's token if there is one, and the signature.

    `url` as it is sent, encoded. `headers`: further ones to sign. Host, time and token are always signed.
    """
    at = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    added = {"X-Amz-Date": at}
    if keys.session_token:
        added["X-Amz-Security-Token"] = keys.session_token
    covered = {"host": _host(parts.scheme, parts.netloc)}
    covered |= {name.lower(): " ".join(value.split()) for name, value in {**(headers or {}), **added}.items()}
    names = ";".join(sorted(covered))
    canonical = "\n".join(
        [
            method,
            quote(parts.path or "/", safe="/" + UNRESERVED),  # the path is encoded once more, as AWS wants it
            _query(parts.query),
            *(f"{name}:{covered[name]}" for name in sorted(covered)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{at[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([ALGORITHM, at, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signature = hmac.new(_key(keys, at[:8], region, service), to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{keys.access_key_id}/{scope}"
    added["Authorization"] = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return added


def _key(keys: AwsKeys, day: str, region: str, service: str) -> bytes:
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _host(scheme: str, netloc: str) -> str:
    """As HTTP clients send it: without a user, and without the port that goes without saying."""
    host = netloc.rpartition("@")[2].lower()
    usual = {"http": ":80", "https": ":443"}.get(scheme, "")
    return host.removesuffix(usual) if usual else host


def _query(query: str) -> str:
    pairs = [(quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in parse_qsl(query, True)]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
