"""Signatures against AWS's published test suite for Signature Version 4."""

from datetime import UTC, datetime

import pytest

from perdure.providers.sigv4 import AwsKeys, signed_headers

KEYS = AwsKeys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = "https://example.amazonaws.com"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("name", "method", "path", "headers", "body", "signature"),
    [
        ("get-vanilla", "GET", "/", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("post-vanilla", "POST", "/", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            {},
            b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-empty-query-key",
            "GET",
            "/?Param1=value1",
            {},
            b"",
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        (
            "get-unreserved",
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            {},
            b"",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-header-value-trim",
            "GET",
            "/",
            {"My-Header1": " value1", "My-Header2": ' "a   b   c"'},
            b"",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-x-www-form-urlencoded",
            "POST",
            "/",
            FORM,
            b"Param1=value1",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
)
def test_the_published_suite(
    name: str, method: str, path: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    made = signed_headers(
        method, HOST + path, body, KEYS, region="us-east-1", service="service", headers=headers, now=NOW
    )
    names = ";".join(sorted({"host", "x-amz-date", *(each.lower() for each in headers)}))
    assert made == {
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }


def test_a_sessions_token_is_signed() -> None:
    keys = AwsKeys(
        KEYS.access_key_id, KEYS.secret_access_key, "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
    )
    made = signed_headers("GET", HOST + "/", b"", keys, region="us-east-1", service="service", now=NOW)
    assert made["X-Amz-Security-Token"] == keys.session_token
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in made["Authorization"]
    assert made["Authorization"].endswith("07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8")


def test_an_encoded_path_is_encoded_once_more_and_a_usual_port_is_not_signed() -> None:
    def of(url: str) -> str:
        return signed_headers("POST", url, b"{}", KEYS, region="us-east-1", service="bedrock", now=NOW)["Authorization"]

    assert of(f"{HOST}/model/a%3A0/invoke") != of(f"{HOST}/model/a:0/invoke")
    assert of(f"{HOST}:443/x") == of(f"{HOST}/x") != of(f"{HOST}:8443/x")


def test_no_secret_is_shown() -> None:
    assert "wJalr" not in repr(KEYS)
