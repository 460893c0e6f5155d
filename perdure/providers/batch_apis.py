"""The batch API of a provider, by what its profile says of it."""

from perdure.providers.anthropic_batches import AnthropicBatches
from perdure.providers.batches import BatchApi, BatchProfile
from perdure.providers.http import Endpoint, Http
from perdure.providers.mistral_batches import MistralBatches
from perdure.providers.openai_batches import OpenAIBatches


def batch_api(http: Http, endpoint: Endpoint, profile: BatchProfile) -> BatchApi:
    match profile.api:
        case "openai":
            return OpenAIBatches(http, endpoint, profile)
        case "mistral":
            return MistralBatches(http, endpoint, profile)
        case "anthropic":
            return AnthropicBatches(http, endpoint, profile)
