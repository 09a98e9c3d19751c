"""What explaining and scoring refuse before they begin, and report when they have ended."""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral


def check_latents(latents: Iterable[int], n_latents: int) -> list[int]:
    """Latents as a list of int, refused if one does not exist or stands twice."""
    latents = list(latents)
    for latent in latents:
        if not isinstance(latent, Integral) or not 0 <= int(latent) < n_latents:
            raise ValueError(
                f"latents holds {latent!r}, but must hold integers from 0 to {n_latents - 1}."
            )
    if len(set(latents)) < len(latents):
        raise ValueError("latents holds a latent twice: give each once.")
    return [int(latent) for latent in latents]


def warn_of_failures(what: str, reasons: Sequence[str | None]) -> None:
    """One warning with how often which reason came, if any did."""
    counts = Counter(reason for reason in reasons if reason is not None)
    if not counts:
        return
    common = "; ".join(f"{n} × {reason}" for reason, n in counts.most_common(3))
    more = f"; and {len(counts) - 3} other reasons" if len(counts) > 3 else ""
    message = f"{counts.total()} of {len(reasons)} {what}: {common}{more}."
    warnings.warn(message, UserWarning, stacklevel=3)
