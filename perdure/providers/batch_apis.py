"""The batch API of a provider, by what its profile says of it."""

from perdure.providers.batches import BatchApi, BatchProfile
from perdure.providers.http import Endpoint, Http
from perdure.providers.openai_batches import OpenAIBatches


def batch_api(http: Http, endpoint: Endpoint, profile: BatchProfile) -> BatchApi:
    return OpenAIBatches(http, endpoint, profile)
