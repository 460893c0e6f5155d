"""Gemini on Google Cloud (Vertex AI): the same API behind a project, a location and Google's tokens."""

from collections.abc import Mapping

from perdure.providers.base import Model, ModelInfo
from perdure.providers.catalogue import named_models
from perdure.providers.configs import ProviderConfig
from perdure.providers.endpoint import ChatProvider
from perdure.providers.google_auth import GoogleTokens
from perdure.providers.http import Http


class VertexGeminiProvider(ChatProvider):
    """Implements `base.Provider`. Its list is what Google is known to serve; what a project may use, the call tells."""

    def __init__(self, config: ProviderConfig, http: Http) -> None:
        super().__init__(config, http)
        cloud = config.cloud
        assert cloud is not None
        self._tokens = GoogleTokens(http, config.name, file=cloud.credentials_file, fixed=config.api_key)
        self._below = f"/projects/{cloud.project}/locations/{cloud.region}/publishers/google/models/"

    def chat(self, name: str, **_: object) -> Model:
        stream = self.config.options.stream is not False
        return self._gemini(name, stream, path=self._below, headers=self._headers)

    async def list_models(self) -> list[ModelInfo]:
        names = self.config.options.models or self.profile.known
        self._listed = named_models(self.config, self.profile, names)
        return self._listed

    async def _headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {await self._tokens.token()}"}
