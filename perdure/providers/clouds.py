"""Claude in other people's clouds: where it is served there, and by which right it is used.

Invariant: nothing is contacted here, and no secret shows in a value's text. Credentials come from the variables and files the
clouds' own tools use.
"""

import configparser
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from perdure.core.errors import Invalid
from perdure.providers.sigv4 import AwsKeys


class Cloud(Struct, frozen=True, kw_only=True):
    """`region`: of AWS, or Google's location. `keys`: of AWS; none where a bearer token is used. `credentials_file`: Google's;
    None: where its tools look, and then the machine's own account."""

    region: str
    project: str | None = None
    keys: AwsKeys | None = None
    credentials_file: str | None = None

    def __repr__(self) -> str:
        return f"Cloud(region={self.region!r}, project={self.project!r})"


def bedrock_url(region: str) -> str:
    return f"https://bedrock-runtime.{region}.amazonaws.com"


def vertex_url(location: str) -> str:
    if location == "global":
        return "https://aiplatform.googleapis.com/v1"
    if location in ("us", "eu"):
        return f"https://aiplatform.{location}.rep.googleapis.com/v1"
    return f"https://{location}-aiplatform.googleapis.com/v1"


def aws_region(env: Mapping[str, str]) -> str | None:
    return env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or None


def google_project(env: Mapping[str, str]) -> str | None:
    return env.get("ANTHROPIC_VERTEX_PROJECT_ID") or env.get("GOOGLE_CLOUD_PROJECT") or None


def google_location(env: Mapping[str, str]) -> str | None:
    return env.get("CLOUD_ML_REGION") or env.get("GOOGLE_CLOUD_LOCATION") or None


def aws_keys(env: Mapping[str, str], profile: str | None = None) -> AwsKeys | None:
    """The keys of the environment, or of a named profile in AWS's credentials file. Invalid for a profile without keys."""
    if profile is None:
        key_id, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
        return AwsKeys(key_id, secret, env.get("AWS_SESSION_TOKEN") or None) if key_id and secret else None
    path = Path(
        env.get("AWS_SHARED_CREDENTIALS_FILE") or Path(env.get("HOME", "~")) / ".aws" / "credentials"
    ).expanduser()
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
        section = parser[profile]
        return AwsKeys(
            section["aws_access_key_id"], section["aws_secret_access_key"], section.get("aws_session_token") or None
        )
    except (KeyError, configparser.Error) as cause:
        raise Invalid(f"aws_profile: {path} has no keys for a profile {profile!r}.") from cause
