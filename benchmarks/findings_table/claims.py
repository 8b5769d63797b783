"""Every claim of the table, in its order."""

from __future__ import annotations

from .claims_rzenembed import RZENEMBED
from .claims_umarvel import UMARVEL
from .records import Claim

CLAIMS: tuple[Claim, ...] = (*UMARVEL, *RZENEMBED)


def chosen(names: list[str] | None) -> tuple[Claim, ...]:
    """The claims of these names, all for None. Raises ValueError for an unknown one."""
    if names is None:
        return CLAIMS
    known = {claim.name: claim for claim in CLAIMS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no claims {unknown}; there are {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))
