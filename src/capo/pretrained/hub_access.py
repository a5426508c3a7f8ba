"""Whether a repository on the Hugging Face Hub can be fetched from here, without fetching it."""

from dataclasses import dataclass

SECONDS = 15.0
"""Limit on one request."""


class HubAccessError(OSError):
    """A repository that cannot be fetched from here; the message says why and what to do."""


@dataclass(frozen=True)
class Repository:
    """A repository that can be fetched."""

    size: int
    """Bytes of its safetensors files."""
    license: str | None
    has_safetensors: bool = True

    def __str__(self) -> str:
        licensed = self.license or "no license stated"
        return f"{self.size / 1e9:.1f} GB; {licensed}" if self.size else licensed


def find_repository(name: str, revision: str | None) -> Repository:
    """Look up a model repository on the Hub; raises `HubAccessError` if it cannot be fetched."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise HubAccessError(f"{name} is not on this machine, and HF_HUB_OFFLINE turns the Hub off")
    api = HfApi()
    try:
        info = api.model_info(name, revision=revision, files_metadata=True, timeout=SECONDS)
        if info.gated:  # its page is public, but its files may not be
            api.auth_check(name)
    except GatedRepoError as error:
        raise HubAccessError(
            f"{name} requires that you accept its terms: do so at {api.endpoint}/{name}, then `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise HubAccessError(f"{name} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise HubAccessError(
            f"the Hub has no repository {name}, or it is private: check the name, or `hf auth login`"
        ) from error
    except Exception as error:
        # The library, its HTTP client and the network each have error types of their own.
        raise HubAccessError(f"{name} cannot be fetched: {type(error).__name__}: {error}") from error
    files = [file for file in info.siblings or () if file.rfilename.endswith(".safetensors")]
    size = sum(file.size or 0 for file in files)
    return Repository(size, getattr(info.card_data, "license", None), bool(files))
