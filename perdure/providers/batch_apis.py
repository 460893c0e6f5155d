"""The batch API of a provider, by what its profile says of it."""

from perdure.providers.anthropic_batches import AnthropicBatches
from perdure.providers.azure_batches import AzureBatches
from perdure.providers.batches import BatchApi, BatchProfile
from perdure.providers.gemini_batches import GeminiBatches
from perdure.providers.http import Endpoint, Http
from perdure.providers.mistral_batches import MistralBatches
from perdure.providers.openai_batches import OpenAIBatches
from perdure.providers.together_batches import TogetherBatches
from perdure.providers.xai_batches import XaiBatches


def batch_api(http: Http, endpoint: Endpoint, profile: BatchProfile, *, api_version: str | None = None) -> BatchApi:
    """`api_version`: of Azure's older API."""
    match profile.api:
        case "openai":
            return OpenAIBatches(http, endpoint, profile)
        case "mistral":
            return MistralBatches(http, endpoint, profile)
        case "anthropic":
            return AnthropicBatches(http, endpoint, profile)
        case "azure":
            return AzureBatches(http, endpoint, profile, api_version)
        case "gemini":
            return GeminiBatches(http, endpoint, profile)
        case "together":
            return TogetherBatches(http, endpoint, profile)
        case "xai":
            return XaiBatches(http, endpoint, profile)
